"""Weighted criteria of a rubric, and what follows from those that an answer meets. Pure."""

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

MAX_SAYS = 1000
MAX_WEIGHT = 100


class Criterion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that an answer should do (or, with a negative weight, should not)."""

    says: Annotated[str, Meta(min_length=1, max_length=MAX_SAYS)]
    weight: Annotated[float, Meta(ge=-MAX_WEIGHT, le=MAX_WEIGHT)] = 1.0


def can_pass(weights: Iterable[float]) -> bool:
    """Whether an answer can earn any of these weights."""
    return any(weight > 0 for weight in weights)


def reached(criteria: Sequence[Criterion], met: Sequence[bool]) -> float:
    """The weights of what is met, as a share 0..1 of all positive ones.

    met: for each criterion, whether the answer does it. What has a negative weight is taken off.
    Raises `ValueError` for another number of judgements than there are criteria.
    """
    got = sum(c.weight for c, yes in zip(criteria, met, strict=True) if yes)
    most = sum(c.weight for c in criteria if c.weight > 0)
    return min(1.0, max(0.0, got / most))


def passes(share: float, needed: float) -> bool:
    """Whether a share of the weights is enough, but for rounding."""
    return share >= needed - 1e-9
