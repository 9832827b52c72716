"""The beginning of a registry."""

from collections.abc import Iterable

from adapters.fields import Digest, Name
from registry import errors
from registry.model.access import BOOTSTRAP
from registry.model.base import Command, Draft, Event, made_of
from registry.model.catalog import Catalog
from registry.model.keys import OPERATOR, KeyIssued


class RegistryCreated(Event, frozen=True):
    """The first event of every log."""

    registry: str

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Name the registry."""
        draft.registry = self.registry


class CreateRegistry(Command, frozen=True):
    """Begin the log: name the registry and issue its first operator's key."""

    event = RegistryCreated
    given_by = BOOTSTRAP
    registry: Name
    key: Name
    key_name: Name
    secret_sha256: Digest

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Begin an empty log."""
        if catalog.registry:
            raise errors.Conflict("This store holds a registry already. Use it, or another place.")
        yield self.caused()
        yield made_of(KeyIssued, self, name=self.key_name, grants=OPERATOR)
