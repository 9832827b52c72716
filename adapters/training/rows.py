"""One example of each kind that a stage learns from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """What every kind has: the user's message, and what a split keeps together."""

    prompt: str
    unit: str


@dataclass(frozen=True, slots=True)
class Turn(Row):
    """A prompt with its answer; an empty answer where only a reward model judges."""

    answer: str


@dataclass(frozen=True, slots=True)
class Pair(Row):
    """A prompt with the answer that is preferred and one that is not."""

    chosen: str
    rejected: str
    judged: bool = True
    """Whether anybody rejected that answer; otherwise any other wrong one serves as well."""


@dataclass(frozen=True, slots=True)
class Judged(Row):
    """A prompt with one answer and the thumb it got."""

    answer: str
    good: bool
