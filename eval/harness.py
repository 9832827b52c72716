"""Running lm-evaluation-harness on a suite, and reading its samples as answers."""

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from adapters.home import cache
from eval.errors import UnknownSuite
from eval.served import Answers, Model, ServedModel
from eval.suites.suite import Suite, Task
from registry.model.evidence import Engine


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One item's answer by one model."""

    id: str
    unit: str
    target: str
    text: str
    right: bool
    """As lm-evaluation-harness scores it."""
    score: float
    """The answer's raw score: its probability for the model."""
    time: str
    """When it was given."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where models are asked, what answers there, and how many questions at once."""

    url: str
    key: str
    engine: Engine
    concurrency: int = 16


def requests_of(suite: Suite, *, only_accuracy: bool = False) -> int:
    """How many questions a suite puts to a model: a progress bar's length."""
    return sum(len(task.questions) for task in _asked(suite, only_accuracy=only_accuracy))


def ask(
    server: Server,
    model: Model,
    suite: Suite,
    *,
    only_accuracy: bool = False,
    fresh: bool = False,
    asked: Callable[[], None] = lambda: None,
) -> dict[str, list[Answer]]:
    """A model's answers by task name, in the items' order.

    only_accuracy: leave out what is asked of the version to be judged alone. Answers are kept by
    the model's digest, the suite's two (which cover the decoding settings) and the engine's
    fingerprint; what is kept is not asked again unless `fresh`. Raises `EngineUnknown`,
    `EvaluationFailed` or `WrongBytes`.
    """
    engine = server.engine.fingerprint
    kept = f"{suite.name}-{suite.digest[:16]}-{suite.held_out[:16]}-{engine[:16]}.jsonl"
    answers = Answers(cache("evaluations", model.digest, kept), fresh=fresh)
    served = ServedModel(
        server.url,
        server.key,
        model,
        answers,
        engine=engine,
        concurrency=server.concurrency,
        asked=asked,
    )
    tasks = _asked(suite, only_accuracy=only_accuracy)
    titles = [task.title(hinted=model.is_base and task.needs_hint) for task in tasks]
    samples = run(served, titles, _written(suite))["samples"] if tasks else {}
    return {
        task.name: _answers(task, samples[title], served)
        for task, title in zip(tasks, titles, strict=True)
    }


def _asked(suite: Suite, *, only_accuracy: bool) -> list[Task]:
    """The tasks that are put to a model."""
    return [task for task in suite.tasks if task.role == "accuracy" or not only_accuracy]


def _written(suite: Suite) -> Path:
    """The suite's folder in the cache; one that stays, so that its items are read in once."""
    folder = cache("suites", f"{suite.name}-{suite.digest[:16]}-{suite.held_out[:16]}")
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            suite.write(Path(made), at=folder)
            with contextlib.suppress(OSError):  # somebody else was faster
                Path(made).rename(folder)
                Path(made).mkdir()
    return folder


def run(
    served: Any, tasks: Sequence[str], folder: Path | None, *, limit: int | None = None
) -> dict[str, Any]:
    """lm-evaluation-harness's own result for tasks by name: those in `folder`, or its stock ones.

    Raises `UnknownSuite` for a name that is no task.
    """
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    manager = TaskManager(
        include_path=str(folder) if folder else None, include_defaults=folder is None
    )
    if unknown := [name for name in tasks if name not in manager.all_tasks]:
        raise UnknownSuite(
            f"lm-evaluation-harness has no task {unknown[0]!r} here. List them: lm_eval ls tasks"
        )
    result: dict[str, Any] = evaluator.evaluate(
        served,
        manager.load(list(tasks)),
        apply_chat_template=True,
        bootstrap_iters=0,
        limit=limit,
        log_samples=True,
    )
    return result


def _answers(task: Task, samples: Sequence[dict[str, Any]], served: ServedModel) -> list[Answer]:
    """Samples, whose order is the harness's, as answers in the order of the task's questions."""
    by_place = {int(sample["doc_id"]): sample for sample in samples}
    found = []
    for place, question in enumerate(task.questions):
        sample = by_place[place]
        context, how = sample["arguments"][0]
        given = served.given(str(context), how)
        found.append(
            Answer(
                id=question.id,
                unit=question.unit,
                target=question.target,
                text=str((sample["resps"][0] if question.choices else sample["filtered_resps"])[0]),
                right=bool(sample["exact_match"]),
                score=given.score,
                time=given.time,
            )
        )
    return found
