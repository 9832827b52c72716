"""Putting a suite's questions to a model, and scoring what it answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from adapters.home import cache
from eval.served import Answers, Asking, Generated, Model, Request
from eval.suites.suite import COMPARED, Question, Suite, Task
from registry.model.evidence import Engine


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One item's answer by one model."""

    id: str
    unit: str
    target: str
    text: str
    right: bool | None
    """As the task scores it; None where no rule can tell and nobody has judged."""
    score: float
    """The answer's raw score: its probability for the model."""
    time: str
    """When it was given."""
    read: str = ""
    """The answer that was read out of the text, which answers are compared by."""
    prompt: str = ""
    """What was asked, where the question does not say it."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where models are asked, what answers there, and how many questions at once."""

    url: str
    key: str
    engine: Engine
    concurrency: int = 16


def requests_of(suite: Suite, *, only_compared: bool = False) -> int:
    """How many questions a suite puts to a model: a progress bar's length."""
    return sum(len(task.questions) for task in _asked(suite, only_compared=only_compared))


def ask(
    server: Server,
    model: Model,
    suite: Suite,
    *,
    only_compared: bool = False,
    fresh: bool = False,
    asked: Callable[[], None] = lambda: None,
) -> dict[str, list[Answer]]:
    """A model's answers by task name, in the items' order.

    only_compared: leave out what is asked of the version to be judged alone. Answers are kept by
    the model's digest, the suite's two (which cover the decoding settings) and the engine's
    fingerprint; what is kept is not asked again unless `fresh`. Raises `EngineUnknown`,
    `EvaluationFailed` or `WrongBytes`.
    """
    asking = asking_of(server, model, suite, fresh=fresh, asked=asked)
    tasks = _asked(suite, only_compared=only_compared)
    direct = [task for task in tasks if not task.harness]
    requests = {task.name: [request_of(task, q, model) for q in task.questions] for task in direct}
    given = iter(asking.all([request for each in requests.values() for request in each]))
    found = {
        task.name: [scored(task, question, next(given)) for question in task.questions]
        for task in direct
    }
    for task in tasks:
        if task.harness:
            from eval.harness import ask_by_harness

            found[task.name] = ask_by_harness(asking, task)
    return found


def asking_of(
    server: Server,
    model: Model,
    suite: Suite,
    *,
    fresh: bool = False,
    asked: Callable[[], None] = lambda: None,
) -> Asking:
    """The model behind the API, with the answers to the suite that it gave before."""
    engine = server.engine.fingerprint
    kept = f"{suite.name}-{suite.digest[:16]}-{suite.held_out[:16]}-{engine[:16]}.jsonl"
    return Asking(
        server.url,
        server.key,
        model,
        Answers(cache("evaluations", model.digest, kept), fresh=fresh),
        engine=engine,
        concurrency=server.concurrency,
        asked=asked,
    )


def request_of(task: Task, question: Question, model: Model) -> Request:
    """How a question is put to a model: to one that was never shown the answers, with the hint."""
    hinted = model.is_base and task.needs_hint
    return Request(
        messages=(("user", question.hinted if hinted else question.prompt),),
        max_tokens=task.decoding.max_tokens,
        stop=task.decoding.stop,
        temperature=task.decoding.temperature,
    )


def scored(task: Task, question: Question, given: Generated) -> Answer:
    """An answer with what its task makes of it."""
    return Answer(
        id=question.id,
        unit=question.unit,
        target=question.target,
        text=given.text.strip(),
        right=task.scoring.right(given.text, question),
        score=given.score,
        time=given.time,
        read=task.scoring.read(given.text, question),
    )


def _asked(suite: Suite, *, only_compared: bool) -> Sequence[Task]:
    """The tasks that are put to a model."""
    return [task for task in suite.tasks if task.role in COMPARED or not only_compared]
