"""The state machine: commands are decided, events are folded. Pure: the time is passed in.

`decide` sees the state that its events will be appended to (the log makes sure of that), so every
rule holds however many registries run.
"""

from collections.abc import Iterable

from adapters.fields import problem
from registry import errors
from registry.model import (
    aliases,
    bases,
    canary,
    collection,
    creation,
    domains,
    evaluations,
    feedback,
    harm,
    keys,
    reviews,
    shadow,
    tasks,
    versions,
    webhooks,
)
from registry.model.access import check_active, require
from registry.model.base import Command, Draft, Entry, Event
from registry.model.catalog import Catalog

CONCEPTS = (
    creation,
    bases,
    domains,
    versions,
    aliases,
    canary,
    shadow,
    feedback,
    evaluations,
    tasks,
    reviews,
    harm,
    collection,
    keys,
    webhooks,
)
"""The modules that define commands and events."""


def commands() -> dict[str, type[Command]]:
    """Every command by its name."""
    return {kind.__name__: kind for kind in Command.__subclasses__()}


def events() -> dict[str, type[Event]]:
    """Every event by its name, which is also its `type` in the log."""
    return {kind.__name__: kind for kind in Event.__subclasses__()}


def decide(catalog: Catalog, command: Command, by: str, now: str) -> tuple[Event, ...]:
    """The events that `command`, given by key id `by` at `now`, causes in `catalog`.

    An empty tuple means that it is so already. Raises a `LoraryError` that says why not.
    """
    if wrong := problem(command):
        raise errors.BadRequest(f"{wrong}. Correct the request.")
    _authorise(catalog, command, by, now)
    return tuple(command.decide(catalog, by, now))


def fold(catalog: Catalog, entries: Iterable[Entry], time: str) -> Catalog:
    """The state after `entries`, all of one commit made at `time`. `catalog` is left as it was."""
    draft = Draft(catalog)
    for entry in entries:
        entry.event.apply(draft, entry.actor, time)
    return draft.applied_to(catalog)


def _authorise(catalog: Catalog, command: Command, by: str, now: str) -> None:
    """Raises `Unauthenticated` or `Forbidden` unless `by` may give this command at all."""
    if command.given_by is not None:
        if by != command.given_by:
            name = type(command).__name__
            raise errors.Forbidden(f"{name} is given by the holder of the store alone.")
        return
    key = catalog.keys.get(by)
    if key is None:
        raise errors.Unauthenticated("That key is not known here.")
    check_active(key, now)
    require(key, *command.needs(catalog))
