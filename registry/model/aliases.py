"""Aliases: which version each name means, and what a guarded one takes to move."""

from collections.abc import Iterable
from dataclasses import replace

from adapters.fields import Count, Name, Number
from adapters.names import AdapterRef, check_alias
from registry import errors
from registry.model.access import Role, as_role
from registry.model.base import Command, Draft, Event, Route
from registry.model.blinding import requirements_shown
from registry.model.catalog import Adapter, Catalog, Move, Version
from registry.model.comparisons import ended
from registry.model.gates import asks_anything, requirements


class AliasMoved(Event, frozen=True):
    """An alias names another version from here on; a split and a shadow of it end."""

    domain: str
    adapter: str
    alias: str
    version: int
    previous: int | None

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Move the alias, and remember the move."""
        path = f"{self.domain}/{self.adapter}"
        adapter, policy = draft.adapters[path], draft.domains[self.domain].policy
        draft.version(path, self.version)
        earned = self.alias in policy.guarded and asks_anything(policy)
        draft.change_adapter(
            path,
            aliases={**adapter.aliases, self.alias: self.version},
            splits={name: split for name, split in adapter.splits.items() if name != self.alias},
            shadows=ended(adapter.shadows, at, "the alias was moved", alias=self.alias),
            moves=(
                *adapter.moves,
                Move(self.alias, self.version, self.previous, by, at, earned),
            ),
        )


class MoveAlias(Command, frozen=True):
    """Let an alias name `version`. With `expected`, only if it names that version now (0: none)."""

    event = AliasMoved
    route = Route("PUT", "/adapters/{domain}/{adapter}/aliases/{alias}")
    domain: Name
    adapter: Name
    alias: Name
    version: Number
    expected: Count | None = None

    def needs(self, catalog: Catalog) -> tuple[Role, str]:
        """The policy's role for a guarded alias, else `publish`."""
        return role_to_move(catalog, self.domain, self.alias), self.domain

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Let an alias name a version that earned it, if the caller saw what it names now."""
        check_alias(self.alias)
        ref = AdapterRef(self.domain, self.adapter)
        adapter = catalog.adapter(ref)
        target = catalog.resolve(AdapterRef(self.domain, self.adapter, version=self.version))
        current = adapter.aliases.get(self.alias)
        if self.expected is not None and self.expected != (current or 0):
            raise self._lost_race(adapter)
        if current == self.version and self.alias not in adapter.splits:
            return
        check_earned(catalog, self.alias, target, by, now)
        yield self.caused(previous=current)

    def _lost_race(self, adapter: Adapter) -> errors.Conflict:
        last = next((m for m in reversed(adapter.moves) if m.alias == self.alias), None)
        if last is None:
            return errors.Conflict(
                f"Alias {self.alias!r} does not exist yet. Expect 0, or drop it."
            )
        return errors.Conflict(
            f"Alias {self.alias!r} names version {last.version}, not {self.expected}: "
            f"{last.actor} moved it at {last.time}. Look at that version, then decide again."
        )


class AliasRemoved(Event, frozen=True):
    """The alias names nothing any more; its history stays."""

    domain: str
    adapter: str
    alias: str
    previous: int

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Remove the alias, its split and its shadow, and remember that."""
        path = f"{self.domain}/{self.adapter}"
        adapter = draft.adapters[path]
        draft.change_adapter(
            path,
            aliases={name: at for name, at in adapter.aliases.items() if name != self.alias},
            splits={name: split for name, split in adapter.splits.items() if name != self.alias},
            shadows=ended(adapter.shadows, at, "the alias was removed", alias=self.alias),
            moves=(*adapter.moves, Move(self.alias, 0, self.previous, by, at)),
        )


class RemoveAlias(Command, frozen=True):
    """Remove an alias. Whoever asks for it gets 404 until it is set again."""

    event = AliasRemoved
    route = Route("DELETE", "/adapters/{domain}/{adapter}/aliases/{alias}")
    domain: Name
    adapter: Name
    alias: Name

    def needs(self, catalog: Catalog) -> tuple[Role, str]:
        """`operate` for a guarded alias, else `publish`."""
        known = catalog.domains.get(self.domain)
        guarded = known is not None and self.alias in known.policy.guarded
        return "operate" if guarded else "publish", self.domain

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Remove it; again changes nothing."""
        check_alias(self.alias)
        adapter = catalog.adapter(AdapterRef(self.domain, self.adapter))
        if self.alias in adapter.aliases:
            yield self.caused(previous=adapter.aliases[self.alias])


def role_to_move(catalog: Catalog, domain: str, alias: str) -> Role:
    """The role in the domain that moving or splitting the alias takes."""
    known = catalog.domains.get(domain)
    if known is not None and alias in known.policy.guarded:
        return as_role(known.policy.guarded_role)
    return "publish"


def candidate_for(
    catalog: Catalog, ref: AdapterRef, alias: str, candidate: int, instead: str
) -> tuple[Version, Version]:
    """What `alias` of the adapter `ref` names, and the version that is to be tried beside it.

    instead: what to do with a version of another base model. Raises `NotFound`, `BadRequest` for
    the version that the alias names already, and `BaseMismatch`.
    """
    current = catalog.resolve(replace(ref, alias=alias))
    tried = catalog.resolve(replace(ref, version=candidate))
    if tried.number == current.number:
        raise errors.BadRequest(f"{tried.ref} is what {alias!r} names already.")
    if tried.base != current.base:
        raise errors.BaseMismatch(
            f"{tried.ref} was made for {tried.base!r}, {current.ref} for {current.base!r}: one "
            f"server cannot serve both. {instead}"
        )
    return current, tried


def check_earned(catalog: Catalog, alias: str, version: Version, by: str, now: str) -> None:
    """Raises `PromotionNotEarned` for a guarded alias and a version that lacks something.

    The error lists what `by` may see, which the results of an open review are not part of.
    """
    policy = catalog.domain(version.domain).policy
    if alias in policy.guarded:
        asked = requirements(version, policy, catalog, now=now, alias=alias)
        if all(requirement.met for requirement in asked):
            return
        key = catalog.keys[by]
        shown = requirements_shown(version, catalog, key, now=now, alias=alias)
        missing = [str(requirement) for requirement in shown if not requirement.met]
        raise errors.PromotionNotEarned(alias, str(version.ref), missing)
