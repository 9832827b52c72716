"""What names may mean: aliases, guarded ones, and a domain's default."""

from dataclasses import replace

from adapters.names import AdapterRef, check_alias
from registry import errors
from registry.model.blinding import requirements_shown
from registry.model.catalog import Adapter, Catalog, Version
from registry.model.commands import (
    MoveAlias,
    SetDefaultAdapter,
    SplitAlias,
)
from registry.model.events import (
    AliasMoved,
    AliasSplit,
    AnyEvent,
    DefaultAdapterSet,
)
from registry.model.gates import requirements
from registry.model.rules.rollouts import check_bounds


def move_alias(catalog: Catalog, command: MoveAlias, actor: str, now: str) -> tuple[AnyEvent, ...]:
    """Let an alias name a version that earned it, if the caller saw what it names now."""
    check_alias(command.alias)
    adapter = catalog.adapter(AdapterRef(command.domain, command.adapter))
    target = catalog.resolve(AdapterRef(command.domain, command.adapter, version=command.version))
    current = adapter.aliases.get(command.alias)
    if command.expected is not None and command.expected != (current or 0):
        raise _lost_race(adapter, command)
    if current == command.version and command.alias not in adapter.splits:
        return ()
    _check_earned(catalog, command.alias, target, actor, now)
    return (
        AliasMoved(
            domain=command.domain,
            adapter=command.adapter,
            alias=command.alias,
            version=command.version,
            previous=current,
        ),
    )


def split_alias(
    catalog: Catalog, command: SplitAlias, actor: str, now: str
) -> tuple[AnyEvent, ...]:
    """Give a share of an alias's callers a candidate, which must have earned it as a move does."""
    ref = AdapterRef(command.domain, command.adapter)
    adapter = catalog.adapter(ref)
    current = catalog.resolve(replace(ref, alias=command.alias))
    if not 0 <= command.percent <= 99:
        raise errors.BadRequest("A candidate gets 0 to 99 percent. To give it all, move the alias.")
    running = adapter.splits.get(command.alias)
    if command.percent == 0:
        if running is None:
            return ()
    else:
        candidate = catalog.resolve(replace(ref, version=command.candidate))
        if candidate.number == current.number:
            raise errors.BadRequest(f"{candidate.ref} is what {command.alias!r} names already.")
        if candidate.base != current.base:
            raise errors.BaseMismatch(
                f"{candidate.ref} was made for {candidate.base!r}, {current.ref} for "
                f"{current.base!r}: one server cannot serve both. Move the alias instead."
            )
        _check_earned(catalog, command.alias, candidate, actor, now)
        if command.bounds is not None:
            check_bounds(command.bounds)
        asked = (command.candidate, command.percent, command.bounds)
        if running and (running.candidate, running.percent, running.bounds) == asked:
            return ()
    return (
        AliasSplit(
            domain=command.domain,
            adapter=command.adapter,
            alias=command.alias,
            candidate=command.candidate,
            percent=command.percent,
            bounds=command.bounds if command.percent else None,
        ),
    )


def _check_earned(catalog: Catalog, alias: str, version: Version, actor: str, now: str) -> None:
    """Raises `PromotionNotEarned` for a guarded alias and a version that lacks something.

    The error lists what `actor` may see, which the results of an open review are not part of.
    """
    policy = catalog.domain(version.domain).policy
    if alias in policy.guarded:
        asked = requirements(version, policy, catalog, now=now, alias=alias)
        if all(requirement.met for requirement in asked):
            return
        key = catalog.keys[actor]
        shown = requirements_shown(version, catalog, key, now=now, alias=alias)
        missing = [str(requirement) for requirement in shown if not requirement.met]
        raise errors.PromotionNotEarned(alias, str(version.ref), missing)


def _lost_race(adapter: Adapter, command: MoveAlias) -> errors.Conflict:
    last = next((m for m in reversed(adapter.moves) if m.alias == command.alias), None)
    if last is None:
        return errors.Conflict(f"Alias {command.alias!r} does not exist yet. Expect 0, or drop it.")
    return errors.Conflict(
        f"Alias {command.alias!r} names version {last.version}, not {command.expected}: "
        f"{last.actor} moved it at {last.time}. Look at that version, then decide again."
    )


def set_default(catalog: Catalog, command: SetDefaultAdapter) -> tuple[AnyEvent, ...]:
    """Let a domain's bare name mean one of its adapters."""
    domain = catalog.domain(command.domain)
    catalog.adapter(AdapterRef(command.domain, command.adapter))
    if domain.default == command.adapter:
        return ()
    return (DefaultAdapterSet(domain=command.domain, adapter=command.adapter),)
