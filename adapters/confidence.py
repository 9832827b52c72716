"""Confidence of an answer: token log-probabilities → raw score → calibrated probability. Pure.

The raw score is the probability of the whole answer, exp(Σ log p), not the mean over its tokens.
The product is what the model says of the answer; the mean depends on how a label happens to be
cut into tokens (once "Infec" is out, " diseases" is certain and lifts every long label's mean), and
for short answers the sequence probability is among the best scores that a single pass gives
(Vashurin et al., LM-Polygraph, TACL 2025, arXiv 2406.15627). It is not yet the chance to be right:
a calibration, fitted per version on items kept for that alone, makes it so.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from annotated_types import MaxLen

from adapters.fields import Count, Finite, Share, ShortText

EDGE = 1e-6
"""Calibrated probabilities stay this far from 0 and 1: nothing is certain."""


class Decoding(msgspec.Struct, frozen=True, kw_only=True):
    """How the answers were asked for that a calibration was fitted on.

    The defaults are what evaluations ask with, and what a calibration without this field was fitted
    on: never change them. A task that asks in another way says so in its calibration.
    """

    temperature: Finite = 0.0
    max_tokens: Count = 24
    """A request may allow more: an answer that ends sooner is the same."""
    stop: Annotated[tuple[ShortText, ...], MaxLen(16)] = ("\n",)
    messages: Annotated[tuple[ShortText, ...], MaxLen(16)] = ("user",)
    """The roles of a conversation's messages."""


EVALUATED = Decoding()
"""The decoding settings of evaluations: greedy, one answer of one message, without constraints."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """How a version's raw scores become probabilities, and below which an answer is withheld."""

    method: Literal["temperature", "isotonic"]
    temperature: Finite = 1.0
    """Divides the raw score's log-odds (Guo et al., arXiv 1706.04599, for one probability)."""
    knots: Annotated[tuple[tuple[Finite, Finite], ...], MaxLen(2000)] = ()
    """Raw score and probability, both rising; between two knots a straight line."""
    threshold: Share = 0.0
    """Answers with less confidence should be withheld: 0 withholds none, 1 withholds all."""
    target_risk: Share | None = None
    """The share of wrong answers among those given that `threshold` was certified for."""
    n: Count = 0
    """Items that it was fitted on."""
    report: ShortText = ""
    """Digest of the evaluation report that it was recorded with."""
    decoding: Decoding = EVALUATED
    """What it holds for: answers to requests with other settings are not calibrated by it."""


def raw_score(logprobs: Sequence[float]) -> float:
    """The probability, 0..1, of the answer whose tokens have these natural log-probabilities.

    All tokens that the server lists for the answer count, its end included where it is listed.
    Raises `ValueError` for no tokens: an empty answer has no score.
    """
    if not logprobs:
        raise ValueError("an answer without tokens has no score")
    return math.exp(min(0.0, math.fsum(logprobs)))


def calibrated(score: float, calibration: Calibration | None) -> float:
    """The estimated chance that an answer with that raw score is right.

    Without a calibration the raw score itself, which is a ranking and no promise.
    """
    if calibration is None:
        return score
    if calibration.method == "isotonic":
        return _clipped(_interpolated(score, calibration.knots))
    return _clipped(_sigmoid(_logit(score) / calibration.temperature))


def confidence(logprobs: Sequence[float], calibration: Calibration | None) -> float:
    """The estimated chance that the answer of these tokens is right."""
    return calibrated(raw_score(logprobs), calibration)


def withheld(probability: float, calibration: Calibration | None) -> bool:
    """Whether a confidence lies below the version's certified threshold."""
    return calibration is not None and probability < calibration.threshold


def fault(calibration: Calibration) -> str | None:
    """What makes a calibration unusable, or None."""
    numbers = [calibration.temperature, calibration.threshold, *sum(calibration.knots, ())]
    if not all(math.isfinite(number) for number in numbers):
        return "its parameters are not all finite"
    if not math.isfinite(calibration.decoding.temperature) or calibration.decoding.max_tokens < 1:
        return "its decoding settings are impossible"
    if not 0.0 <= calibration.threshold <= 1.0:
        return "its threshold is not between 0 and 1"
    if calibration.method == "temperature":
        return None if calibration.temperature > 0 else "its temperature is not above 0"
    if len(calibration.knots) < 2:
        return "it has fewer than two knots"
    for (x, y), (next_x, next_y) in zip(calibration.knots, calibration.knots[1:], strict=False):
        if not (x < next_x and y <= next_y):
            return "its knots do not rise"
    ys = [y for _, y in calibration.knots]
    return None if ys[0] >= 0 and ys[-1] <= 1 else "its probabilities are not between 0 and 1"


def _logit(p: float) -> float:
    p = min(max(p, 1e-12), 1 - 1e-12)
    return math.log(p) - math.log1p(-p)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _clipped(p: float) -> float:
    return min(max(p, EDGE), 1 - EDGE)


def _interpolated(score: float, knots: Sequence[tuple[float, float]]) -> float:
    at = bisect_right(knots, score, key=lambda knot: knot[0])
    if at == 0:
        return knots[0][1]
    if at == len(knots):
        return knots[-1][1]
    (x0, y0), (x1, y1) = knots[at - 1], knots[at]
    return y0 + (y1 - y0) * (score - x0) / (x1 - x0)
