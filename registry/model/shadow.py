"""Shadow traffic: a candidate also answers a share of an alias's requests, unseen by callers.

Its answers reach nobody, so a candidate needs no promotion to be a shadow; but it must be one that
servers could serve: admitted, of the same base model, neither revoked nor deleted.
"""

from collections.abc import Iterable
from typing import Annotated

import msgspec
from annotated_types import Gt, Le

from adapters.fields import Name, Number
from adapters.names import AdapterRef
from registry import errors
from registry.model.access import Role
from registry.model.aliases import candidate_for, role_to_move
from registry.model.base import Command, Draft, Event, Route, made_of
from registry.model.catalog import Catalog
from registry.model.comparisons import MAX_REPORTERS, Comparison, Shadow, ended


class ShadowStarted(Event, frozen=True):
    """A candidate also answers a share of an alias's requests from here on."""

    optional = True
    domain: str
    adapter: str
    alias: str
    candidate: int
    share: float
    stable: int
    """The version that the alias names."""

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Begin the shadow; it takes the place of the alias's shadow that runs, if one does."""
        path = f"{self.domain}/{self.adapter}"
        adapter = draft.adapters[path]
        draft.version(path, self.candidate)
        draft.version(path, self.stable)
        number = adapter.shadows_begun + 1
        begun = made_of(Shadow, self, number=number, actor=by, time=at)
        before = ended(adapter.shadows, at, "another took its place", alias=self.alias)
        draft.change_adapter(path, shadows=(*before, begun), shadows_begun=number)


class ShadowEnded(Event, frozen=True):
    """Somebody ended an alias's shadow; what was seen of it stays."""

    optional = True
    domain: str
    adapter: str
    alias: str
    shadow: int
    """Which of the adapter's shadows."""

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """End the shadow."""
        path = f"{self.domain}/{self.adapter}"
        adapter = draft.adapters[path]
        after = ended(adapter.shadows, at, f"ended by {by}", alias=self.alias)
        draft.change_adapter(path, shadows=after)


class ShadowReported(Event, frozen=True):
    """A replica's totals of what it has seen of a shadow so far."""

    optional = True
    domain: str
    adapter: str
    alias: str
    shadow: int
    reporter: str
    """The replica's process."""
    seen: Comparison

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Keep the totals in the place of the process's earlier ones."""
        path = f"{self.domain}/{self.adapter}"
        adapter = draft.adapters[path]
        shadows = tuple(
            msgspec.structs.replace(shadow, reports={**shadow.reports, self.reporter: self.seen})
            if shadow.number == self.shadow
            else shadow
            for shadow in adapter.shadows
        )
        draft.change_adapter(path, shadows=shadows)


class StartShadow(Command, frozen=True):
    """Have `candidate` also answer a share of an alias's requests; nobody gets its answers."""

    event = ShadowStarted
    route = Route("PUT", "/adapters/{domain}/{adapter}/aliases/{alias}/shadow")
    domain: Name
    adapter: Name
    alias: Name
    candidate: Number
    share: Annotated[float, Gt(0), Le(1)]
    """Of the alias's requests."""

    def needs(self, catalog: Catalog) -> tuple[Role, str]:
        """As for a move of the alias."""
        return role_to_move(catalog, self.domain, self.alias), self.domain

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Begin it; the same candidate and share again change nothing."""
        ref = AdapterRef(self.domain, self.adapter)
        running = catalog.adapter(ref).shadowed.get(self.alias)
        current, candidate = candidate_for(
            catalog, ref, self.alias, self.candidate, "Evaluate the version instead."
        )
        if current.facts.head is not None or candidate.facts.head is not None:
            raise errors.BadRequest(
                "A shadow compares texts, and classification heads write none. Evaluate the "
                "version instead: lorary eval."
            )
        if running and (running.candidate, running.share) == (self.candidate, self.share):
            return
        yield self.caused(stable=current.number)


class EndShadow(Command, frozen=True):
    """End an alias's shadow. What was seen of it stays."""

    event = ShadowEnded
    route = Route("DELETE", "/adapters/{domain}/{adapter}/aliases/{alias}/shadow")
    domain: Name
    adapter: Name
    alias: Name

    def needs(self, catalog: Catalog) -> tuple[Role, str]:
        """As for a move of the alias."""
        return role_to_move(catalog, self.domain, self.alias), self.domain

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """End it, if one runs."""
        adapter = catalog.adapter(AdapterRef(self.domain, self.adapter))
        running = adapter.shadowed.get(self.alias)
        if running is not None:
            yield self.caused(shadow=running.number)


class ReportShadow(Command, frozen=True):
    """Report a replica's totals of a shadow. Repeating it is safe, and so is a late report."""

    event = ShadowReported
    role = "serve"
    urgent = False
    route = Route("POST", "/adapters/{domain}/{adapter}/aliases/{alias}/shadow/report")
    domain: Name
    adapter: Name
    alias: Name
    shadow: Number
    reporter: Name
    seen: Comparison

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Keep totals that are later than those before; also of a shadow that has just ended."""
        adapter = catalog.adapter(AdapterRef(self.domain, self.adapter))
        named = (self.alias, self.shadow)
        shadow = next((s for s in adapter.shadows if (s.alias, s.number) == named), None)
        if shadow is None:
            raise errors.Conflict(
                f"Shadow {self.shadow} of {adapter.domain}/{adapter.name}@{self.alias} is not "
                "known, or was too long ago. What was seen of it is not kept."
            )
        if not self.seen.consistent:
            raise errors.BadRequest("A count in the report is above the whole it is a part of.")
        before = shadow.reports.get(self.reporter)
        if before is None and len(shadow.reports) >= MAX_REPORTERS:
            raise errors.Conflict(
                f"{MAX_REPORTERS} replicas have reported about this shadow. Start it again."
            )
        earlier = before or Comparison()
        if self.seen != earlier and self.seen.covers(earlier):
            yield self.caused()
