"""Weighted criteria of a rubric, and the share of their weights that an answer reaches. Pure."""

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

MAX_SAYS = 1000
"""Most characters of a criterion."""
MAX_WEIGHT = 100
"""Highest weight, and lowest below zero."""


class Criterion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that an answer should do (or, with a negative weight, should not)."""

    says: Annotated[str, Meta(min_length=1, max_length=MAX_SAYS)]
    """What the answer should do, as people and judging models read it."""
    weight: Annotated[float, Meta(ge=-MAX_WEIGHT, le=MAX_WEIGHT)] = 1.0
    """What an answer that does it earns; below zero, what it loses."""


def can_pass(weights: Iterable[float]) -> bool:
    """Whether any weight is above zero: without one no answer can pass."""
    return any(weight > 0 for weight in weights)


def earned_share(criteria: Sequence[Criterion], met: Sequence[bool]) -> float:
    """The sum of the weights that an answer earns and loses, as a share of all positive weights.

    criteria: those of which `can_pass` is true. met: for each criterion, whether the answer does
    what it says. Returns a number in 0..1: a sum below zero counts as 0.
    Raises `ValueError` for another number of judgements than there are criteria.
    """
    earned = sum(c.weight for c, yes in zip(criteria, met, strict=True) if yes)
    most = sum(c.weight for c in criteria if c.weight > 0)
    return min(1.0, max(0.0, earned / most))


def is_enough(share: float, needed: float) -> bool:
    """Whether a share of the weights reaches the one that is needed, up to rounding errors."""
    return share >= needed - 1e-9
