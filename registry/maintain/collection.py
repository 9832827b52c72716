"""Garbage collection that never removes what a version needs, however many push meanwhile.

The log decides. A collection first commits which blobs it will remove; that commit spares whatever
something names by then, and until the collection ends nothing can be published that names one of
them. So each publisher is either before the commit, and its blobs are spared, or after it, and has
to repeat. A grace period keeps clear of pushes under way; correctness does not rest on it.
"""

import time
from collections.abc import Callable

import msgspec

from registry.errors import BeingCollected
from registry.model.catalog import Catalog, Version
from registry.model.collection import MAX_CONDEMNED, CondemnBlobs, SweepBlobs, blobs_in_use
from registry.model.reviewing import Review
from registry.model.reviews import EraseReview
from registry.model.versions import TombstoneVersion
from registry.registry import Registry
from registry.store import ObjectStore
from registry.store.blobs import PARTS, Blobs, digest_of
from registry.times import instant

DAY = 86_400.0
Progress = Callable[[str, int, int], None]


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What a collection removed or, on a dry run, would remove."""

    applied: bool
    expired: tuple[str, ...]
    """Versions beyond what their domain's policy keeps."""
    blobs: int
    parts: int
    """Parts of uploads that never ended."""
    bytes: int


def expired(catalog: Catalog) -> list[Version]:
    """Versions that their domain's policy no longer keeps and that no alias names."""
    found = []
    for adapter in catalog.adapters.values():
        keep = catalog.domains[adapter.domain].policy.keep
        if keep is None:
            continue
        named = {
            *adapter.aliases.values(),
            *(split.candidate for split in adapter.splits.values()),
            *(shadow.candidate for shadow in adapter.shadowed.values()),
        }
        found += [
            version
            for version in adapter.versions[:-keep]
            if version.tombstone is None and version.number not in named
        ]
    return found


def outdated(catalog: Catalog, now: float) -> list[Review]:
    """Reviews whose texts were to be kept only so long after their end. now: seconds since 1970."""
    found = []
    for review in catalog.reviews.values():
        if review.content is None or review.closed is None or review.keep_days is None:
            continue
        if now - instant(review.closed).timestamp() >= review.keep_days * DAY:
            found.append(review)
    return found


def collect(
    registry: Registry,
    actor: str,
    *,
    apply: bool,
    resume: bool = False,
    grace_seconds: float = DAY,
    clock: Callable[[], float] = time.time,
    progress: Progress = lambda _what, _done, _total: None,
) -> Collected:
    """Remove what nothing needs and is older than the grace period; without `apply`, count it.

    resume: end a collection that died; only when it is certain that it is not still running.
    Raises `BeingCollected` if another collection has not ended, and what `decide` raises.
    """
    catalog = registry.refresh()
    if catalog.condemned and apply and not resume:
        raise BeingCollected(
            "Another collection has not ended. If it died, end it: lorary gc --apply --resume"
        )
    if catalog.condemned and apply:
        _sweep(registry, actor, progress)
    old = expired(catalog)
    if apply:
        for version in old:
            reason = "retention: older than what the domain's policy keeps"
            command = TombstoneVersion(version.domain, version.adapter, version.number, reason)
            registry.execute(command, actor)
        for review in outdated(catalog, clock()):
            registry.execute(EraseReview(review.id), actor)
        catalog = registry.refresh()
    oldest = clock() - grace_seconds
    blobs = _unused(registry.store, "blobs/", blobs_in_use(catalog), oldest)
    parts = _unused(registry.store, PARTS, set(), oldest)
    if apply:
        blobs = _remove(registry, actor, blobs, progress)
        for digest in parts:
            Blobs(registry.store).discard_part(digest)
        Blobs(registry.store).unmark_replaced()
    return Collected(
        applied=apply,
        expired=tuple(str(version.ref) for version in old),
        blobs=len(blobs),
        parts=len(parts),
        bytes=sum(blobs.values()) + sum(parts.values()),
    )


def _remove(
    registry: Registry, actor: str, unused: dict[str, int], progress: Progress
) -> dict[str, int]:
    """Condemn and remove blobs, so many for each pair of commits; digests and sizes of those that
    nothing had named by then."""
    removed, digests = dict[str, int](), list(unused)
    for start in range(0, len(digests), MAX_CONDEMNED):
        batch = tuple(digests[start : start + MAX_CONDEMNED])
        registry.execute(CondemnBlobs(batch), actor)
        removed |= {digest: unused[digest] for digest in registry.catalog.condemned}
        _sweep(registry, actor, progress)
    return removed


def _sweep(registry: Registry, actor: str, progress: Progress) -> None:
    """Remove the condemned blobs, then say so. If anything fails they stay condemned."""
    condemned, blobs = registry.catalog.condemned, Blobs(registry.store)
    if not condemned:
        return
    for done, digest in enumerate(condemned, start=1):
        blobs.discard(digest)
        progress("blobs", done, len(condemned))
    registry.execute(SweepBlobs(), actor)


def _unused(store: ObjectStore, prefix: str, used: set[str], oldest: float) -> dict[str, int]:
    """Digests and sizes of old objects below `prefix` that are not in `used`."""
    found = {}
    for info in store.list(prefix):
        digest = digest_of(info.key)
        if digest is not None and digest not in used and info.modified < oldest:
            found[digest] = info.size
    return found
