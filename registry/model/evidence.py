"""What an evaluation found, as counts, what a domain asks of it, and approvals. Data only.

Counts are recorded, never bounds: whoever weighs the evidence computes the bounds anew
(`registry.model.intervals`), so a report cannot claim more certainty than its numbers carry.
"""

import hashlib
from typing import Annotated

import msgspec
from annotated_types import MaxLen, Predicate

from adapters.fields import MAX_COUNT, Count, DesignEffect, Digest, Name, Share, is_line
from registry.model.intervals import lower_bound, upper_bound

Line = Annotated[str, MaxLen(200), Predicate(is_line)]
"""One line that may be empty."""
ACCURACY = "accuracy"
"""The tally that pairings are about: whether an item was answered correctly."""


class Approval(msgspec.Struct, frozen=True):
    """When an expert approved a version, and their statement."""

    time: str
    statement: str


class Tally(msgspec.Struct, frozen=True):
    """How many of `n` items had the wanted outcome: correct, valid, safe, unchanged."""

    hits: Count
    n: Count
    design_effect: DesignEffect = 1.0
    """By how much items of one unit, being alike, inflate the variance of the share; >= 1."""


class Paired(msgspec.Struct, frozen=True, kw_only=True):
    """The same items asked of another model: how often just one of the two was right."""

    other: Digest
    """Digest of the other version, or of the base model."""
    gained: Count
    """Items that only this version got right."""
    lost: Count
    """Items that only the other got right."""
    n: Count
    design_effect: DesignEffect = 1.0


class Confident(msgspec.Struct, frozen=True, kw_only=True):
    """Wrong answers among those given with at least that much (calibrated) confidence."""

    at: Share
    wrong: Count
    n: Count
    design_effect: DesignEffect = 1.0


def effective(count: int, of: Tally | Paired | Confident) -> float:
    """`count` items as so many independent ones: divided by the design effect.

    Earlier releases recorded numbers without a bound, too large for a float even.
    """
    return min(count, MAX_COUNT) / min(max(1.0, of.design_effect), MAX_COUNT)


def interval(count: Tally | Confident) -> tuple[float, float]:
    """The exact 95 % interval of the share, whoever shows it: command line, pages and reports."""
    found = count.hits if isinstance(count, Tally) else count.wrong
    hits, n = effective(found, count), effective(count.n, count)
    return lower_bound(hits, n, 0.025), upper_bound(hits, n, 0.025)


class SuiteResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one suite found."""

    suite: Name
    digest: Digest
    """SHA-256 of how the suite asks and scores."""
    held_out: Digest
    """SHA-256 of the items."""
    tallies: Annotated[dict[Name, Tally], MaxLen(100)]
    paired: Annotated[tuple[Paired, ...], MaxLen(100)] = ()
    confident: Annotated[tuple[Confident, ...], MaxLen(100)] = ()


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """What answered beside the adapter: whatever else may change an answer, as the server says."""

    name: Name
    """Engine and version, such as `vllm 0.32.0`."""
    device: Name
    """Such as `cpu`, or a GPU's name."""
    dtype: Name
    """Of the base model's weights as they are computed with."""
    quantization: Line
    """Method by which the base model was quantised; "" for none."""
    base: Line
    """Digest of the base model's files as this server measured them at its start; "" if it did not
    measure them."""
    settings: Annotated[dict[Name, Line], MaxLen(40)]
    """Other settings that may change an answer, by name."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all of it: two engines with one fingerprint were started alike."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()

    def differences(self, other: "Engine") -> list[str]:
        """Names of what differs between the two and may change an answer.

        Lorary's own version is not among it: what of Lorary shapes an answer stands in the other
        settings, and an update of Lorary alone leaves calibrations as they are.
        """
        names = [name for name in ("name", "device", "dtype", "quantization", "base")
                 if getattr(self, name) != getattr(other, name)]  # fmt: skip
        settings = (self.settings.keys() | other.settings.keys()) - {"lorary"}
        return names + sorted(s for s in settings if self.settings.get(s) != other.settings.get(s))


class TaskSuite(msgspec.Struct, frozen=True):
    """One suite of a task, pinned as a policy names it and an evaluation reports it."""

    suite: Name
    digest: Digest
    """SHA-256 of how the suite asks and scores."""
    held_out: Digest
    """SHA-256 of the items."""
    items: Count = 0
    """Questions in all of its parts."""


class SuiteRule(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy requires of one suite, pinned to the very questions and items."""

    suite: Name
    """The suite's name."""
    digest: Digest
    """SHA-256 of how the suite asks and scores; another suite's results do not count."""
    held_out: Digest
    """SHA-256 of the items."""
    task: Line = ""
    """The version of the domain's task that the suite belongs to, such as `findings@2`; "" for a
    suite that Lorary ships."""
    floors: Annotated[dict[Name, Share], MaxLen(100)] = {}
    """By tally: the share that the lower confidence bound must reach."""
    margin: Share | None = None
    """How much less accurate than what the alias names now a version may be at most; the
    confidence bound must exclude more. 0.02 is two points. None compares nothing."""
    better_than_base: bool = False
    """Whether accuracy must be above the base model's beyond chance."""
    confident_at: Share = 0.9
    """Confidence from which wrong answers count as confident errors."""
    confident_errors: Share | None = None
    """Highest share of wrong answers among those with a confidence of at least `confident_at`; the
    upper confidence bound must not exceed it."""


def impossible(result: SuiteResult) -> str | None:
    """What is impossible about a suite's counts, or None."""
    parts = [
        *((tally.hits, 0, tally.n) for tally in result.tallies.values()),
        *((pair.gained, pair.lost, pair.n) for pair in result.paired),
        *((level.wrong, 0, level.n) for level in result.confident),
    ]
    for one, other, n in parts:
        if one + other > n:
            return f"{one} and {other} of {n} cannot be"
    levels = [level.at for level in result.confident]
    if not all(0 < at < 1 for at in levels) or len(set(levels)) < len(levels):
        return "levels of confidence lie between 0 and 1, each once"
    return None
