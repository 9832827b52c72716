"""What names may mean: aliases, guarded ones, and a domain's default."""

from adapters.names import AdapterRef, check_alias
from registry import errors
from registry.catalog import Adapter, Catalog, Version
from registry.commands import (
    MoveAlias,
    SetDefaultAdapter,
)
from registry.events import (
    AliasMoved,
    AnyEvent,
    DefaultAdapterSet,
    Policy,
)


def missing_for_promotion(version: Version, policy: Policy) -> tuple[str, ...]:
    """What a version still lacks before a guarded alias of its domain may name it."""
    experts = {key for key in version.approvers if key != version.publisher}
    lacking = policy.approvals - len(experts)
    if lacking <= 0:
        return ()
    return (
        f"{lacking} more approval(s) by experts other than its publisher "
        f"(lorary approve {version.ref})",
    )


def move_alias(catalog: Catalog, command: MoveAlias) -> tuple[AnyEvent, ...]:
    """Let an alias name a version that earned it, if the caller saw what it names now."""
    check_alias(command.alias)
    adapter = catalog.adapter(AdapterRef(command.domain, command.adapter))
    target = catalog.resolve(AdapterRef(command.domain, command.adapter, version=command.version))
    current = adapter.aliases.get(command.alias)
    if command.expected is not None and command.expected != (current or 0):
        raise _lost_race(adapter, command)
    if current == command.version:
        return ()
    policy = catalog.domain(command.domain).policy
    if command.alias in policy.guarded:
        missing = missing_for_promotion(target, policy)
        if missing:
            raise errors.PromotionNotEarned(command.alias, str(target.ref), missing)
    return (
        AliasMoved(
            domain=command.domain,
            adapter=command.adapter,
            alias=command.alias,
            version=command.version,
            previous=current,
        ),
    )


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
