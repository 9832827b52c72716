"""Weighted criteria of a rubric, and the share of their weights that an answer reaches. Pure."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Annotated, Protocol

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


class Weighted(Protocol):
    """What has the fields of a criterion."""

    @property
    def says(self) -> str:
        """What the answer should do."""

    @property
    def weight(self) -> float:
        """What that is worth."""


def fault(criteria: Iterable[Weighted]) -> str | None:
    """What is wrong with the criteria of an item, to be read after "It" or "An item"."""
    known = set[str]()
    can_pass = False
    for criterion in criteria:
        if not any(letter.isprintable() and letter != " " for letter in criterion.says):
            return "has a criterion that says nothing. Write what an answer should do."
        name = " ".join(criterion.says.split())
        if name in known:
            return f"has the same criterion twice: {name[:80]!r}. Add up their weights in one."
        known.add(name)
        can_pass = can_pass or criterion.weight > 0
    return None if can_pass else "has no criterion with a weight above 0. Add one."


def earned_share(criteria: Sequence[Criterion], met: Sequence[bool]) -> Fraction:
    """The sum of the weights that an answer earns and loses, as a share of all positive weights:
    exactly that of the decimal numbers in which weights are written.

    criteria: those in which `fault` finds nothing. met: for each criterion, whether the answer does
    what it says. Returns a number in 0..1: a sum below zero counts as 0.
    Raises `ValueError` for another number of judgements than there are criteria.
    """
    got = sum(_exact(c.weight) for c, yes in zip(criteria, met, strict=True) if yes)
    most = sum(_exact(c.weight) for c in criteria if c.weight > 0)
    return min(Fraction(1), max(Fraction(0), Fraction(got) / most))


def is_enough(share: Fraction, needed: float) -> bool:
    """Whether a share of the weights reaches the one that is needed."""
    return share >= _exact(needed)


def _exact(number: float) -> Fraction:
    """The decimal number that is written for a float."""
    return Fraction(repr(float(number)))
