"""Judging one version: its suites, paired against the base model and what is in production."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from adapters.confidence import Calibration, calibrated
from adapters.tasks.scoring import Rubric
from eval import scoring
from eval.asking import Answer, Server, ask, requests_of
from eval.errors import EngineUnknown
from eval.judge import by_model, judged, judgements_of
from eval.served import Model
from eval.suites.suite import COMPARED, Question, Suite, Task
from registry.model.evidence import Engine, SuiteResult
from registry.times import utc_now

Progress = Callable[[str, int], None]
"""Called with what is asked and by how many questions it went on."""
REPORT = 1
"""Version of the report's own layout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The version to be judged, and whom it is compared with."""

    version: Model
    base: Model
    production: Model | None = None
    """What the alias names now, unless that is the version itself."""

    @property
    def others(self) -> tuple[Model, ...]:
        """Everything it is compared with."""
        return (self.base, self.production) if self.production else (self.base,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was found: the counts to record, the calibration, and the whole report."""

    results: tuple[SuiteResult, ...]
    calibration: Calibration | None
    engine: Engine
    answered: str
    """When the oldest of the answers was given."""
    report: dict[str, Any]

    def body(self, digest: str) -> dict[str, Any]:
        """What the registry takes to record it for the bytes with `digest`."""
        return {
            "digest": digest,
            "results": msgspec.to_builtins(self.results),
            "calibration": msgspec.to_builtins(self.calibration),
            "engine": msgspec.to_builtins(self.engine),
            "answered": self.answered,
            "report": self.report,
        }


def work(suites: Sequence[Suite], subject: Subject) -> int:
    """How many questions an evaluation asks."""
    return sum(
        requests_of(suite)
        + judgements_of(suite)
        + requests_of(suite, only_compared=True) * len(subject.others)
        for suite in suites
    )


def evaluate(
    server: Server,
    subject: Subject,
    suites: Sequence[Suite],
    *,
    target_risk: float | None = None,
    fresh: bool = False,
    progress: Progress = lambda _what, _steps: None,
) -> Evaluation:
    """Ask every suite of the version, its accuracy tasks of the others, too, and count.

    What the same engine answered before is not asked again, so a run that failed is simply
    repeated; `fresh` asks everything anew. Raises `EngineUnknown`, `EvaluationFailed` or
    `WrongBytes`.
    """
    _check_base(server.engine, subject.base)
    results, details = [], []
    times: list[str] = []
    calibration: Calibration | None = None
    for suite in suites:
        answered = ask(
            server,
            subject.version,
            suite,
            fresh=fresh,
            asked=lambda suite=suite: progress(suite.name, 1),  # type: ignore[misc]
        )
        for task in by_model(suite):
            answered[task.name] = judged(
                server,
                suite,
                task,
                answered[task.name],
                fresh=fresh,
                asked=lambda suite=suite: progress(suite.name, 1),  # type: ignore[misc]
            )
        others = {
            model.digest: ask(
                server,
                model,
                suite,
                only_compared=True,
                fresh=fresh,
                asked=lambda suite=suite: progress(suite.name, 1),  # type: ignore[misc]
            )
            for model in subject.others
            if any(task.role in COMPARED for task in suite.tasks)
        }
        for given in (answered, *others.values()):
            times += [answer.time for answers in given.values() for answer in answers]
        fitted = scoring.calibrate(suite, answered, target_risk)
        calibration = calibration or fitted
        result = scoring.score(suite, answered, others, fitted)
        results.append(result)
        details.append(details_of(suite, result, fitted, answered, others))
    report = {
        "layout": REPORT,
        "version": {"name": subject.version.name, "digest": subject.version.digest},
        "base": {"name": subject.base.name, "digest": subject.base.digest},
        "production": {"name": subject.production.name, "digest": subject.production.digest}
        if subject.production
        else None,
        "harness": _asked_by(suites),
        "engine": {**msgspec.to_builtins(server.engine), "fingerprint": server.engine.fingerprint},
        "answered": {"first": min(times, default=""), "last": max(times, default="")},
        "target_risk": target_risk,
        "suites": details,
    }
    return Evaluation(
        results=tuple(results),
        calibration=calibration,
        engine=server.engine,
        answered=min(times, default=utc_now()),
        report=report,
    )


def _check_base(engine: Engine, base: Model) -> None:
    """Raises `EngineUnknown` if the engine runs another base model than the registered one."""
    if engine.base and engine.base != base.digest:
        raise EngineUnknown(
            f"The server runs a base model with digest {engine.base[:12]}; {base.name} is "
            f"registered with {base.digest[:12]}. Ask a server of the registered base."
        )


def details_of(
    suite: Suite,
    result: SuiteResult,
    calibration: Calibration | None,
    answered: Mapping[str, Sequence[Answer]],
    others: Mapping[str, Mapping[str, Sequence[Answer]]],
) -> dict[str, Any]:
    """A suite's part of the report: its counts, and every answer for whoever wants to look."""
    tasks = []
    for task in suite.tasks:
        rows = [
            {
                **msgspec.to_builtins(answer),
                "prompt": answer.prompt or question.prompt,
                "confidence": round(calibrated(answer.score, calibration), 6),
                **_criteria(task, question),
            }
            for question, answer in zip(task.questions, answered[task.name], strict=True)
        ]
        compared = {
            digest: [{"text": answer.text, "right": answer.right} for answer in answers[task.name]]
            for digest, answers in others.items()
            if task.name in answers
        }
        tasks.append({"name": task.name, "role": task.role, "items": rows, "others": compared})
    return {
        "about": suite.about,
        "domain": suite.domain,
        "task": suite.pushed,
        "result": msgspec.to_builtins(result),
        "calibration": msgspec.to_builtins(calibration),
        "tasks": tasks,
    }


def _criteria(task: Task, question: Question) -> dict[str, Any]:
    """What experts look for in an answer, where a rubric says."""
    if not isinstance(task.scoring, Rubric):
        return {}
    criteria = msgspec.to_builtins(task.scoring.all_of(question))
    return {"criteria": criteria, "passes": task.scoring.passes}


def _asked_by(suites: Sequence[Suite]) -> str:
    """What asked and scored."""
    from importlib.metadata import version

    if any(task.harness for suite in suites for task in suite.tasks):
        return f"lorary {version('lorary')}, lm-eval {version('lm_eval')}"
    return f"lorary {version('lorary')}"
