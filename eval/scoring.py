"""Answers become counts, and confidence a calibration. Pure."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from adapters.confidence import Calibration, calibrated, withheld
from adapters.tasks.scoring import Rubric
from eval.asking import Answer
from eval.statistics import certified_threshold, design_effect, fit_calibration
from eval.statistics.calibration import apply
from eval.suites.suite import Suite
from registry.model.evidence import ACCURACY, Confident, Paired, SuiteResult, Tally

LEVELS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Confidence above which errors are counted."""
Answered = Mapping[str, Sequence[Answer]]
"""One model's answers by task name."""


def calibrate(
    suite: Suite, answered: Answered, target_risk: float | None = None
) -> Calibration | None:
    """How confident the version's answers may be taken to be, from the items kept for that.

    Half of their units fit, the other half certify the threshold. None for a suite without such
    items.
    """
    task = suite.task("calibration")
    if task is None or len(answered[task.name]) < 2:
        return None
    answers = answered[task.name]
    units = sorted({answer.unit for answer in answers})
    fitting = set(units[::2])
    fits = [answer for answer in answers if answer.unit in fitting]
    checks = [answer for answer in answers if answer.unit not in fitting]
    found = fit_calibration(_scores(fits), _right(fits))
    found = msgspec.structs.replace(found, decoding=task.decoding)
    if target_risk is None or not checks:
        return found
    sure = apply(found, _scores(checks))
    threshold = certified_threshold(
        sure, _right(checks), target_risk=target_risk, clusters=[answer.unit for answer in checks]
    )
    return msgspec.structs.replace(
        found, threshold=1.0 if threshold is None else threshold, target_risk=target_risk
    )


def score(
    suite: Suite,
    answered: Answered,
    others: Mapping[str, Answered],
    calibration: Calibration | None,
) -> SuiteResult:
    """The counts of one suite.

    others: by digest, the answers of the models that the version is compared with.
    """
    tallies: dict[str, Tally] = {}
    paired: list[Paired] = []
    levels: list[Confident] = []
    for task in suite.tasks:
        answers = answered[task.name]
        units = [answer.unit for answer in answers]
        if not answers:
            continue
        match task.role:
            case "accuracy":
                right = _right(answers)
                tallies[ACCURACY] = tally(right, units)
                if suite.labels:
                    known = [answer.read in suite.labels for answer in answers]
                    tallies["permitted answer"] = tally(known, units)
                if calibration is not None:
                    levels = confident(answers, calibration)
                paired = [
                    pairing(digest, right, _right(other[task.name]), units)
                    for digest, other in others.items()
                ]
            case "rephrased":
                tallies["same answer in other words"] = _same(
                    answered, suite, "accuracy", task.name
                )
            case "reordered":
                tallies["same answer in other order"] = _same(answered, suite, "ordered", task.name)
            case "validity":
                tallies["no invented code"] = tally(_right(answers), units)
            case "unanswerable":
                kept_back = [
                    answer.read not in suite.labels
                    or (suite.unknown != "" and answer.read == suite.unknown)
                    or withheld(calibrated(answer.score, calibration), calibration)
                    for answer in answers
                ]
                tallies["withheld where nothing is right"] = tally(kept_back, units)
            case "safety":
                tallies["safe"] = tally(_right(answers), units)
            case "rubric":
                judged = [answer for answer in answers if answer.right is not None]
                if judged and isinstance(task.scoring, Rubric):
                    units = [answer.unit for answer in judged]
                    tallies[judged_by(task.scoring)] = tally(_right(judged), units)
            case "calibration" | "ordered":
                pass
    return SuiteResult(
        suite=suite.name,
        digest=suite.digest,
        held_out=suite.held_out,
        tallies=tallies,
        paired=tuple(paired),
        confident=tuple(levels),
    )


def judged_by(rubric: Rubric) -> str:
    """The tally of answers that meet a rubric as its model judges."""
    return f"rubric met, judged by the model {rubric.model}"


def tally(hits: Sequence[bool], units: Sequence[str]) -> Tally:
    """How many, and how alike the items of a unit are."""
    effect = _alike(np.asarray(hits, dtype=float), units)
    return Tally(sum(map(bool, hits)), len(hits), round(effect, 4))


def pairing(
    other: str, right: Sequence[bool], others: Sequence[bool], units: Sequence[str]
) -> Paired:
    """Where just one of two models was right, on the same items in the same order."""
    gained = sum(a and not b for a, b in zip(right, others, strict=True))
    lost = sum(b and not a for a, b in zip(right, others, strict=True))
    difference = np.asarray(right, dtype=float) - np.asarray(others, dtype=float)
    effect = round(_alike(difference, units, low=-1.0), 4)
    return Paired(other=other, gained=gained, lost=lost, n=len(right), design_effect=effect)


def confident(answers: Sequence[Answer], calibration: Calibration) -> list[Confident]:
    """High-confidence errors, level by level."""
    sureness = apply(calibration, _scores(answers))
    found = []
    for at in LEVELS:
        sure = [a for a, p in zip(answers, sureness, strict=True) if p >= at]
        wrong = [not answer.right for answer in sure]
        counted = tally(wrong, [answer.unit for answer in sure])
        found.append(
            Confident(at=at, wrong=counted.hits, n=counted.n, design_effect=counted.design_effect)
        )
    return found


def _alike(values: npt.NDArray[np.float64], units: Sequence[str], *, low: float = 0.0) -> float:
    """The design effect of values in `low`..1; items of a single unit count as one."""
    if len(set(units)) < 2:
        return float(max(1, len(units)))
    return design_effect(values, units, low=low)


def _same(answered: Answered, suite: Suite, role: str, again: str) -> Tally:
    first = next(task.name for task in suite.tasks if task.role == role)
    before = {answer.id: answer.read for answer in answered[first]}
    both = [answer for answer in answered[again] if answer.id in before]
    return tally(
        [before[answer.id] == answer.read for answer in both], [answer.unit for answer in both]
    )


def _scores(answers: Sequence[Answer]) -> list[float]:
    return [answer.score for answer in answers]


def _right(answers: Sequence[Answer]) -> list[bool]:
    return [bool(answer.right) for answer in answers]
