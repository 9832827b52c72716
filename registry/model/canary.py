"""Canaries: a share of an alias's callers gets a candidate, which may be rolled back by itself."""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated

from annotated_types import Ge, Le

from adapters.fields import MAX_COUNT, Count, Name, Number
from adapters.names import AdapterRef
from registry import errors
from registry.model.access import Role
from registry.model.aliases import candidate_for, check_earned, role_to_move
from registry.model.base import Command, Draft, Event, Route, made_of
from registry.model.catalog import Adapter, Catalog
from registry.model.trials import BoundName, Bounds, Canary, Evidence, Rollback, Split, crosses
from registry.times import instant


class AliasSplit(Event, frozen=True):
    """A share of an alias's callers gets a candidate from here on; 0 percent ends it."""

    domain: str
    adapter: str
    alias: str
    candidate: int
    percent: int
    bounds: Bounds | None = None
    """What the candidate must keep; None: nothing ends the split but people."""

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Begin, change or end the split."""
        path = f"{self.domain}/{self.adapter}"
        adapter = draft.adapters[path]
        splits, begun = dict(adapter.splits), adapter.splits_begun
        if self.percent:
            begun += 1
            draft.version(path, self.candidate)
            since = int(instant(at).timestamp())
            splits[self.alias] = Split(self.candidate, self.percent, self.bounds, begun, since)
        else:
            splits.pop(self.alias, None)
        canary = made_of(Canary, self, actor=by, time=at)
        canaries = (*adapter.canaries, canary)
        draft.change_adapter(path, splits=splits, splits_begun=begun, canaries=canaries)


class SplitRolledBack(Event, frozen=True):
    """A candidate crossed a bound, so its split is over: everybody gets the stable version."""

    domain: str
    adapter: str
    alias: str
    candidate: int
    split: int
    """Which of the adapter's splits."""
    bound: BoundName
    limit: float
    """What the bound was."""
    evidence: Evidence

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """End the split, and remember why."""
        path = f"{self.domain}/{self.adapter}"
        adapter = draft.adapters[path]
        rollback = made_of(Rollback, self, actor=by, time=at)
        draft.change_adapter(
            path,
            splits={name: split for name, split in adapter.splits.items() if name != self.alias},
            rollbacks=(*adapter.rollbacks, rollback),
        )


class SplitAlias(Command, frozen=True):
    """Let `percent` of an alias's callers get `candidate`; the others keep what it names."""

    event = AliasSplit
    route = Route("PUT", "/adapters/{domain}/{adapter}/aliases/{alias}/split")
    domain: Name
    adapter: Name
    alias: Name
    candidate: Number
    percent: Annotated[int, Ge(0), Le(100)]
    bounds: Bounds | None = Bounds()
    """What the candidate must keep; None: only people end the split."""

    def needs(self, catalog: Catalog) -> tuple[Role, str]:
        """As for a move of the alias."""
        return role_to_move(catalog, self.domain, self.alias), self.domain

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Give a share a candidate, which must have earned it as a move does."""
        ref = AdapterRef(self.domain, self.adapter)
        adapter = catalog.adapter(ref)
        catalog.resolve(replace(ref, alias=self.alias))  # an alias that there is, also to end it
        if self.percent > 99:
            raise errors.BadRequest(
                "A candidate gets 0 to 99 percent. To give it all, move the alias."
            )
        running = adapter.splits.get(self.alias)
        if self.percent == 0:
            if running is not None:
                yield self.caused(bounds=None)
            return
        _, candidate = candidate_for(
            catalog, ref, self.alias, self.candidate, "Move the alias instead."
        )
        if self.bounds is not None:
            check_bounds(self.bounds)
        check_earned(catalog, self.alias, candidate, by, now)
        asked = (self.candidate, self.percent, self.bounds)
        if running and (running.candidate, running.percent, running.bounds) == asked:
            return
        yield self.caused()


class RollBackSplit(Command, frozen=True):
    """End a split whose candidate crossed a bound, as the evidence shows. Repeating it is safe."""

    event = SplitRolledBack
    role = "serve"
    route = Route("POST", "/adapters/{domain}/{adapter}/aliases/{alias}/split/rollback")
    domain: Name
    adapter: Name
    alias: Name
    candidate: Number
    split: Count
    bound: BoundName
    evidence: Evidence

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """End the split, if it is the one that the evidence is about and the evidence is enough."""
        adapter = catalog.adapter(AdapterRef(self.domain, self.adapter))
        if any((r.alias, r.split) == (self.alias, self.split) for r in adapter.rollbacks):
            return
        split = adapter.splits.get(self.alias)
        if split is None or (split.number, split.candidate) != (self.split, self.candidate):
            raise errors.Conflict(
                f"Split {self.split} of {adapter.domain}/{adapter.name}@{self.alias} with "
                f"candidate {self.candidate} does not run. What was seen of it ends nothing."
            )
        _check_evidence(self.evidence)
        if self.bound == "negative_share":
            raise errors.BadRequest("Feedback is counted here. Report error_rate or latency_ratio.")
        if split.bounds is None or not crosses(self.bound, split.bounds, self.evidence):
            raise errors.Conflict(
                f"The evidence does not show that candidate {self.candidate} crosses a declared "
                f"bound on {self.bound}. The split goes on."
            )
        yield rolled_back(adapter, self.alias, split, self.bound, self.evidence)


def rolled_back(
    adapter: Adapter, alias: str, split: Split, bound: BoundName, evidence: Evidence
) -> SplitRolledBack:
    """The end of a split because of a bound that it declared."""
    limit = split.bounds.limit(bound) if split.bounds else None
    assert limit is not None, "a bound that is not declared cannot be crossed"  # noqa: S101
    return SplitRolledBack(
        domain=adapter.domain,
        adapter=adapter.name,
        alias=alias,
        candidate=split.candidate,
        split=split.number,
        bound=bound,
        limit=limit,
        evidence=evidence,
    )


def check_bounds(bounds: Bounds) -> None:
    """Raises `BadRequest` for a share of 0, which no candidate could keep."""
    if 0 in (bounds.max_error_rate, bounds.max_negative_share):
        raise errors.BadRequest(
            "A share's bound is above 0 and at most 1: 0.05 for 5 percent, 1 for no bound."
        )


def _check_evidence(evidence: Evidence) -> None:
    """Raises `BadRequest` for counts that cannot be."""
    pairs = [(evidence.slower, evidence.compared)]
    for arm in (evidence.candidate, evidence.stable):
        pairs += [(arm.errors, arm.requests), (arm.positive, MAX_COUNT), (arm.negative, MAX_COUNT)]
        seconds = arm.first_token_p95
        if seconds is not None and not math.isfinite(seconds):
            raise errors.BadRequest("A time in the evidence is no number of seconds.")
    if not all(0 <= part <= whole <= MAX_COUNT for part, whole in pairs):
        raise errors.BadRequest("A count in the evidence is above the whole it is a part of.")
