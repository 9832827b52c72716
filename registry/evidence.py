"""What an evaluation found, as counts, and what a domain asks of it. Data only.

Counts are recorded, never bounds: whoever weighs the evidence computes the bounds anew
(`registry.bounds`), so a report cannot claim more certainty than its numbers carry.
"""

import msgspec

ACCURACY = "accuracy"
"""The tally that pairings are about: whether an item was answered correctly."""


class Tally(msgspec.Struct, frozen=True):
    """How many of `n` items had the wanted outcome: correct, valid, safe, unchanged."""

    hits: int
    n: int
    design_effect: float = 1.0
    """By how much items of one unit, being alike, inflate the variance of the share; >= 1."""


class Paired(msgspec.Struct, frozen=True, kw_only=True):
    """The same items asked of another model: how often just one of the two was right."""

    other: str
    """Digest of the other version, or of the base model."""
    gained: int
    """Items that only this version got right."""
    lost: int
    """Items that only the other got right."""
    n: int
    design_effect: float = 1.0


class Confident(msgspec.Struct, frozen=True, kw_only=True):
    """Wrong answers among those given with at least that much (calibrated) confidence."""

    at: float
    wrong: int
    n: int
    design_effect: float = 1.0


class SuiteResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one suite found."""

    suite: str
    digest: str
    """SHA-256 of how is asked and scored."""
    held_out: str
    """SHA-256 of the items."""
    tallies: dict[str, Tally]
    paired: tuple[Paired, ...] = ()
    confident: tuple[Confident, ...] = ()


class SuiteRule(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy requires of one suite, pinned to the very questions and items."""

    suite: str
    digest: str
    held_out: str
    floors: dict[str, float] = {}
    """By tally: the share that the lower confidence bound must reach."""
    margin: float | None = None
    """How much less accurate than what the alias names now a version may be at most; the
    confidence bound must exclude more. 0.02 is two points. None compares nothing."""
    better_than_base: bool = False
    """Whether accuracy must be above the base model's beyond chance."""
    confident_at: float = 0.9
    confident_errors: float | None = None
    """Highest share of wrong answers among those at least `confident_at` sure; the upper
    confidence bound must not exceed it."""
