"""Garbage: which blobs something needs, and how the others are removed."""

from collections.abc import Iterable, Iterator
from typing import Annotated, NamedTuple

from annotated_types import MaxLen

from adapters.fields import Digest
from registry import errors
from registry.model.base import Command, Draft, Event
from registry.model.catalog import Catalog

MAX_CONDEMNED = 10_000
"""Blobs in one commit of a collection, which makes as many commits as it takes."""


class BlobsCondemned(Event, frozen=True):
    """Blobs that nothing needs are about to be removed: nothing may name them now."""

    digests: tuple[str, ...]

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Remember what is being removed."""
        draft.condemned = self.digests


class BlobsSwept(Event, frozen=True):
    """The condemned blobs are removed; their contents may be uploaded again."""

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """End the collection."""
        draft.condemned = ()
        draft.swept = draft.sequence


class CondemnBlobs(Command, frozen=True):
    """Announce the removal of blobs. Those that something needs by now are spared."""

    event = BlobsCondemned
    digests: Annotated[tuple[Digest, ...], MaxLen(MAX_CONDEMNED)]

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Condemn the blobs that nothing needs."""
        if catalog.condemned:
            raise errors.BeingCollected(
                "Another collection has not ended. If it died, end it: lorary gc --apply --resume"
            )
        if unused := set(self.digests) - blobs_in_use(catalog):
            yield self.caused(digests=tuple(sorted(unused)))


class SweepBlobs(Command, frozen=True):
    """Report that every condemned blob is removed."""

    event = BlobsSwept

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """End the collection, if one runs."""
        if catalog.condemned:
            yield self.caused()


def spare(catalog: Catalog, digests: set[str], read_at: int) -> None:
    """Raises `BeingCollected` for blobs that are being removed, or may have been removed since they
    were read back after commit `read_at`: the log has decided that first."""
    if digests & set(catalog.condemned) or read_at < catalog.swept:
        raise errors.BeingCollected(
            "Some of these files are being removed as garbage just now. Repeat in a moment."
        )


class BlobUse(NamedTuple):
    """A blob that something needs, its size if that is known, and by what."""

    digest: str
    size: int | None
    by: str


def blob_uses(catalog: Catalog) -> Iterator[BlobUse]:
    """Every need of a blob: by a base model, a version whose bytes are kept, an evaluation (which
    outlives the bytes), a task that is not retired, or a review whose texts are kept."""
    for base in catalog.bases.values():
        yield BlobUse(base.shapes, None, f"base model {base.name}")
    for adapter in catalog.adapters.values():
        for version in adapter.versions:
            if version.tombstone is None:
                for file in version.files:
                    yield BlobUse(file.sha256, file.size, f"{version.ref} {file.path}")
                if version.analysis is not None:
                    yield BlobUse(version.analysis, None, f"{version.ref} analysis")
            for evaluation in version.evaluations:
                yield BlobUse(evaluation.report, None, f"{version.ref} evaluation")
    for task in catalog.tasks.values():
        for asked in task.versions:
            if asked.retired is None:
                for file in asked.files:
                    yield BlobUse(file.sha256, file.size, f"task {asked.ref} {file.path}")
    for review in catalog.reviews.values():
        if review.content is not None:
            yield BlobUse(review.content, None, f"review {review.id}")
            for said in review.recorded():
                if said.notes is not None:
                    yield BlobUse(said.notes, None, f"review {review.id} notes")


def blobs_in_use(catalog: Catalog) -> set[str]:
    """Digests of the blobs that something needs."""
    return {use.digest for use in blob_uses(catalog)}
