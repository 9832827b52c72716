"""What every command and every event has in common, and the state they work on. Pure.

A command says who may give it (`role`), limits its arguments by their types, and decides which
events it causes. An event says in full what was decided, and how it changes the catalog. Each
concept's module defines its own; `registry.model.machine` knows them all.

Times are UTC, ISO 8601 with a `Z`. Digests are hexadecimal SHA-256.
"""

import re
from collections.abc import Iterable
from functools import cache
from typing import Any, ClassVar, NamedTuple, TypeVar

import msgspec

from registry.model.access import ANY_DOMAIN, Role
from registry.model.catalog import Adapter, Base, Catalog, Domain, Key, Version, Webhook
from registry.model.index import Fact, Index
from registry.model.reviewing import Review
from registry.model.task_versions import Task

S = TypeVar("S", bound=msgspec.Struct)


class Draft:
    """Private copies of a catalog's tables, which the events of one commit change."""

    registry: str
    bases: dict[str, Base]
    domains: dict[str, Domain]
    adapters: dict[str, Adapter]
    keys: dict[str, Key]
    reviews: dict[str, Review]
    webhooks: dict[str, Webhook]
    tasks: dict[str, Task]
    condemned: tuple[str, ...]
    swept: int
    sequence: int
    """Of the commit that the events belong to."""
    index: Index | None
    """None if the catalog's was not made yet."""

    def __init__(self, catalog: Catalog) -> None:
        for name in Catalog.__struct_fields__:
            value = getattr(catalog, name)
            setattr(self, name, dict(value) if isinstance(value, dict) else value)
        self.sequence = catalog.sequence + 1
        self.index = catalog.__dict__.get("index")

    def applied_to(self, catalog: Catalog) -> Catalog:
        """`catalog` with these tables; what a commit alone changes stays as it is."""
        tables = {name: getattr(self, name) for name in Catalog.__struct_fields__}
        applied = msgspec.structs.replace(catalog, **{**tables, "sequence": catalog.sequence})
        if self.index is not None:
            applied.__dict__["index"] = self.index
        return applied

    def learn(self, *facts: Fact) -> None:
        """Add what is found by digest or name."""
        if self.index is not None:
            self.index = self.index.plus(facts)

    def change_domain(self, name: str, **changes: Any) -> None:
        """Replace fields of a domain."""
        self.domains[name] = msgspec.structs.replace(self.domains[name], **changes)

    def change_adapter(self, path: str, **changes: Any) -> None:
        """Replace fields of the adapter at `domain/adapter`."""
        self.adapters[path] = msgspec.structs.replace(self.adapters[path], **changes)

    def change_version(self, path: str, number: int, **changes: Any) -> None:
        """Replace fields of one of an adapter's versions."""
        versions = list(self.adapters[path].versions)
        versions[number - 1] = msgspec.structs.replace(self.version(path, number), **changes)
        self.change_adapter(path, versions=tuple(versions))

    def version(self, path: str, number: int) -> Version:
        """One of an adapter's versions. Raises `LookupError` for a number that none has: an event
        with it contradicts the state."""
        versions = self.adapters[path].versions
        if not 1 <= number <= len(versions):
            raise LookupError(f"{path} has no version {number}")
        return versions[number - 1]


@cache
def _shared(source: type[msgspec.Struct], kind: type[msgspec.Struct]) -> list[str]:
    return [name for name in kind.__struct_fields__ if name in source.__struct_fields__]


def made_of(kind: type[S], source: msgspec.Struct, **others: Any) -> S:
    """A `kind` with the fields of `source` that both have, and `others` in their place or beside
    them: what happened is named once on its way from a command to the catalog.

    Raises `TypeError` if a field without a default is in neither.
    """
    shared = {name: getattr(source, name) for name in _shared(type(source), kind)}
    return kind(**{**shared, **others})


class Event(msgspec.Struct, frozen=True, tag_field="type", tag=True, kw_only=True):
    """What happened. In the log, `type` holds the class's name, which therefore never changes."""

    optional: ClassVar[bool] = False
    """Whether a reader that does not know the event may pass over it: what is served, to whom and
    on what terms does not follow from it. See docs/design/009."""

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Change `draft`, which the event follows; `by` is the id of the key that caused it."""
        raise NotImplementedError


class Route(NamedTuple):
    """Where a command is given over HTTP. Its fields that the path does not hold are the body."""

    method: str
    path: str
    """Below `/api/v1`, with fields of the command in braces."""
    status: int = 200

    @property
    def in_path(self) -> list[str]:
        """The command's fields that the path holds."""
        return re.findall(r"{(\w+)}", self.path)


class Command(msgspec.Struct, frozen=True):
    """What somebody asks for. The types of its fields limit what they may hold."""

    event: ClassVar[type[Event]]
    """What it causes first. Fields of the same name hold the same."""
    role: ClassVar[Role] = "operate"
    given_by: ClassVar[str | None] = None
    """The actor without a key who alone may give it; None: whoever has the role."""
    urgent: ClassVar[bool] = True
    """Whether it is written at once; if not, it may wait a little for others to share a commit."""
    route: ClassVar[Route | None] = None
    """None for a command that comes with files, or that only the registry itself gives."""

    def needs(self, catalog: Catalog) -> tuple[Role, str]:
        """The role that it takes, and the domain in which. `*`: in all domains."""
        return self.role, getattr(self, "domain", ANY_DOMAIN)

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """The events that it causes in `catalog`, given by key id `by` at `now`.

        None if it is so already. Raises a `LoraryError` that says why not.
        """
        raise NotImplementedError

    def caused(self, **others: Any) -> Event:
        """The command's event, with `others` in place of the command's own fields or beside them;
        raises as `made_of`."""
        return made_of(self.event, self, **others)


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event and who caused it. Commits are written for several actors at once."""

    actor: str
    event: Event
    optional: bool = False
    """`Event.optional`, for readers that do not know the event."""
