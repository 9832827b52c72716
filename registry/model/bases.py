"""Base models that adapters may be declared against."""

from collections.abc import Iterable
from typing import Annotated

from annotated_types import MaxLen

from adapters.fields import Count, Digest, Name
from registry import errors
from registry.model.base import Command, Draft, Event
from registry.model.catalog import Base, Catalog
from registry.model.collection import spare


class BaseModelRegistered(Event, frozen=True):
    """A base model is known from here on, or has more names."""

    name: str
    digest: str
    shapes: str
    """Digest of the blob that holds the module shapes as JSON."""
    known_as: tuple[str, ...] = ()

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Add the base model, or replace what is known of it."""
        draft.bases[self.name] = Base(self.name, self.digest, self.shapes, self.known_as)


class RegisterBase(Command, frozen=True):
    """Make a base model known; `shapes` is the digest of a stored blob."""

    event = BaseModelRegistered
    name: Name
    digest: Digest
    shapes: Digest
    known_as: Annotated[tuple[Name, ...], MaxLen(100)] = ()
    read_at: Count = 0
    """As for `PublishVersion`."""

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Make it known. The same weights again add names and measurements, if any."""
        known = catalog.bases.get(self.name)
        names = self.known_as
        for other in catalog.bases.values():
            taken = {other.name, *other.known_as} & {self.name, *names}
            if taken and other.name != self.name and other.digest != self.digest:
                raise errors.Conflict(
                    f"{min(taken)!r} already names base model {other.name!r}, which has other "
                    "weights. Choose another name."
                )
        if known is not None:
            if known.digest != self.digest:
                raise errors.Conflict(
                    f"Base model {self.name!r} is registered with other weights "
                    f"({known.digest[:12]}). Register these under another name."
                )
            names = tuple(dict.fromkeys((*known.known_as, *names)))
            if (known.shapes, known.known_as) == (self.shapes, names):
                return
        spare(catalog, {self.shapes}, self.read_at)
        yield self.caused(known_as=names)
