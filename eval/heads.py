"""Judging an adapter with a classification head, beside a plain text classifier.

Its texts are asked of `/classify` as they stand, without a chat template, and its answer is its
likeliest label. The base model has no head, so there is no pairing with it; TF-IDF and logistic
regression, fitted on the task's training items, answer the same items instead. Their accuracy is
recorded as a tally of its own, and the report has the pairing.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import httpx
import msgspec
import openai

from adapters.home import cache
from adapters.packs import TASKS, DomainPack, Item
from adapters.tasks import TaskFolder
from adapters.tasks.builders import divided
from adapters.tasks.format import Side
from adapters.tasks.scoring import Label
from eval import scoring
from eval.asking import Answer, Server
from eval.baseline import classify
from eval.errors import EngineUnknown, EvaluationFailed, UnknownSuite, WrongBytes
from eval.evaluate import REPORT, Evaluation, details_of
from eval.served import EVALUATES, RETRIES, Answers, Generated, Model, check_answer
from eval.statistics import Discordance, mcnemar
from eval.suites.suite import Question, Suite, Task
from registry.times import utc_now

SIDES: tuple[Side, Side] = ("train", "held_out")
AT_ONCE = 16
"""Texts in one request."""
PLAIN = "accuracy of TF-IDF and logistic regression"
"""The tally of the plain classifier."""


@dataclass(frozen=True, slots=True)
class HeadSuite:
    """The items that a head is judged by, and those that the plain classifier learns from."""

    suite: Suite
    train: tuple[Item, ...]

    def __len__(self) -> int:
        return len(self.suite.tasks[0].questions)

    def limited(self, n: int | None) -> "HeadSuite":
        """With at most n items: another held-out set."""
        return self if n is None else HeadSuite(self.suite.limited(n), self.train)


def suite_of(domain: str, labels: Sequence[str], folders: Sequence[TaskFolder] = ()) -> HeadSuite:
    """The held-out items of the shipped task of the domain that has exactly these labels.

    folders: look among these tasks instead. Raises `UnknownSuite` if there is none.
    """
    if folders:
        if (found := among(domain, labels, folders)) is not None:
            return found
        raise UnknownSuite(
            "None of these tasks has exactly the labels of this version's head. Name the task that "
            "it was trained for."
        )
    tasks = {name: t for name, t in TASKS.items() if t.domain == domain and not t.exam}
    for name, pack in tasks.items():
        if set(labels) == _labels(pack):
            # Only the demonstration's tasks are asked of writing adapters, which need calibration.
            items = divided(pack)[0] if pack.judged else pack.load().held_out
            return HeadSuite(_suite(name, domain, labels, items), pack.load().train)
    raise UnknownSuite(
        f"No task of domain {domain!r} has the labels of this version's head. Its tasks are "
        f"{', '.join(tasks) or 'none'}. Name the one that it was trained for: --task FOLDER"
    )


def among(domain: str, labels: Sequence[str], folders: Iterable[TaskFolder]) -> HeadSuite | None:
    """The held-out items of the first of these tasks that has exactly these labels."""
    for task in folders:
        if isinstance(task.spec.score, Label) and set(labels) == set(task.spec.labels):
            train, held_out = (
                tuple(Item(item.text, item.target, item.group) for item in task.side(side))
                for side in SIDES
            )
            return HeadSuite(_suite(task.spec.name, domain, labels, held_out), train)
    return None


def _suite(name: str, domain: str, labels: Sequence[str], items: Iterable[Item]) -> Suite:
    questions = tuple(
        Question(id=item.text, unit=item.unit, prompt=item.text, target=item.label)
        for item in items
    )
    return Suite(
        name=f"{name}-labels",
        domain=domain,
        tasks=(Task(name=f"{name}-labels", role="accuracy", questions=questions),),
        labels=tuple(sorted(labels)),
        about="accuracy of a classification head, beside a plain text classifier",
    )


def evaluate_head(
    server: Server,
    version: Model,
    base: Model,
    chosen: HeadSuite,
    *,
    fresh: bool = False,
    progress: Callable[[str, int], None] = lambda _what, _steps: None,
) -> Evaluation:
    """Ask every item of the version, count, and compare with the plain classifier.

    What the same engine answered before is not asked again unless `fresh`. Raises `EngineUnknown`,
    `EvaluationFailed` or `WrongBytes`.
    """
    suite = chosen.suite
    (task,) = suite.tasks
    answers = _ask(server, version, suite, fresh=fresh, progress=progress)
    items = [Item(q.prompt, q.target, q.unit) for q in task.questions]
    plain = classify(chosen.train, items)
    right = [label == item.label for label, item in zip(plain, items, strict=True)]
    units = [item.unit for item in items]
    answered = {task.name: answers}
    result = scoring.score(suite, answered, {}, None)
    tallies = {**result.tallies, PLAIN: scoring.tally(right, units)}
    result = msgspec.structs.replace(result, tallies=tallies)
    gained = sum(bool(a.right) and not r for a, r in zip(answers, right, strict=True))
    lost = sum(r and not a.right for a, r in zip(answers, right, strict=True))
    times = [answer.time for answer in answers]
    compared = {
        "name": PLAIN,
        "gained": gained,
        "lost": lost,
        "n": len(items),
        "p": mcnemar(Discordance(gained, lost, len(items))),
    }
    report = {
        "layout": REPORT,
        "version": {"name": version.name, "digest": version.digest},
        "base": {"name": base.name, "digest": base.digest},
        "production": None,
        "harness": "lorary /classify",
        "engine": {**msgspec.to_builtins(server.engine), "fingerprint": server.engine.fingerprint},
        "answered": {"first": min(times, default=""), "last": max(times, default="")},
        "target_risk": None,
        "suites": [{**details_of(suite, result, None, answered, {}), "plain": compared}],
    }
    return Evaluation(
        results=(result,),
        calibration=None,
        engine=server.engine,
        answered=min(times, default=utc_now()),
        report=report,
    )


def _labels(pack: DomainPack) -> set[str]:
    return set(pack.labels) or {item.label for item in pack.load().train}


def _ask(
    server: Server,
    version: Model,
    suite: Suite,
    *,
    fresh: bool,
    progress: Callable[[str, int], None],
) -> list[Answer]:
    """The version's answers in the order of the questions."""
    engine = server.engine.fingerprint
    kept = f"{suite.name}-{suite.digest[:16]}-{suite.held_out[:16]}-{engine[:16]}.jsonl"
    answers = Answers(cache("evaluations", version.digest, kept), fresh=fresh)
    questions = suite.tasks[0].questions
    progress(suite.name, sum(answers.get(q.prompt) is not None for q in questions))
    missing = [q.prompt for q in questions if answers.get(q.prompt) is None]
    parts = [missing[i : i + AT_ONCE] for i in range(0, len(missing), AT_ONCE)]
    asyncio.run(_gather(server, version, parts, answers, lambda n: progress(suite.name, n)))
    found = []
    for question in questions:
        given = msgspec.convert(answers.get(question.prompt), Generated)
        found.append(
            Answer(
                id=question.id,
                unit=question.unit,
                target=question.target,
                text=given.text,
                right=given.text == question.target,
                read=given.text,
                score=given.score,
                time=given.time,
            )
        )
    return found


async def _gather(
    server: Server,
    version: Model,
    parts: Sequence[list[str]],
    answers: Answers,
    answered: Callable[[int], None],
) -> None:
    limit = asyncio.Semaphore(max(1, server.concurrency // AT_ONCE))
    origin = server.url.rstrip("/").removesuffix("/v1")
    client = openai.AsyncOpenAI(
        base_url=origin,
        api_key=server.key or "none",
        timeout=600,
        max_retries=RETRIES,
        default_headers=EVALUATES,
    )

    async def one(texts: list[str]) -> None:
        body = {"model": version.name, "input": texts}
        async with limit:
            reply = await client.post("/classify", cast_to=httpx.Response, body=body)
        check_answer(version, server.url, server.engine.fingerprint, reply.headers)
        for text, item in zip(texts, reply.json()["data"], strict=True):
            answers.add(text, Generated(str(item["label"]), max(item["probs"]), utc_now()))
        answered(len(texts))

    try:
        async with client, asyncio.TaskGroup() as group:
            for texts in parts:
                group.create_task(one(texts))
    except* openai.OpenAIError as errors:
        first = errors.exceptions[0]
        raise EvaluationFailed(
            f"{origin}/classify as {version.name}: {first}. What was answered is kept: check the "
            "server, which must classify (lorary serve --task classify), and the key, then run the "
            "command again."
        ) from first
    except* (WrongBytes, EngineUnknown) as errors:
        raise errors.exceptions[0] from None
