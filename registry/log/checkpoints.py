"""The folded state, kept now and then so that a start need not read the whole log.

A checkpoint is a cache and is never trusted over the log. The commit after a checkpointed state
carries the SHA-256 of the checkpoint's bytes, so the chain confirms what the checkpoint says: one
that was changed, that no commit confirms, or that another layout wrote is not used, and the state
is folded from the log instead. Losing one costs time only.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from registry.errors import ObjectNotFound, StoreError
from registry.log.commits import CommitLog, Confirmation, catch_up
from registry.log.layout import LAYOUT
from registry.model.catalog import Catalog
from registry.store.base import ObjectStore

EVERY = 50
"""Commits between two checkpoints, at the least."""
SHARE = 100
"""A checkpoint holds at most this many entries for each commit since the one before it, so that
writing them costs each commit a bounded share however large the registry grows."""
LATEST = "checkpoints/latest"
CANDIDATES = 16
"""Checkpoints, the newest first, that a start tries before it reads the whole log."""


class Checkpoint(msgspec.Struct, frozen=True):
    """A catalog and the layout it was written in."""

    layout: str
    catalog: Catalog


@dataclass(frozen=True, slots=True)
class Made:
    """A checkpoint's bytes, the commit it was folded up to, and what the next commit says of it."""

    sequence: int
    data: bytes
    confirmation: Confirmation


def checkpoint_key(sequence: int) -> str:
    """Where the checkpoint of that commit lies."""
    return f"checkpoints/{sequence:020d}.json"


def due(catalog: Catalog) -> bool:
    """Whether the next commit should confirm a checkpoint of this state. The same in every
    process."""
    entries = sum(1 + len(adapter.versions) for adapter in catalog.adapters.values())
    spacing = EVERY
    while spacing * SHARE < entries:
        spacing *= 2
    return catalog.sequence - catalog.confirmed >= spacing


def make(catalog: Catalog) -> Made:
    """The checkpoint of a state. The same bytes in every process with this layout."""
    data = msgspec.json.encode(Checkpoint(LAYOUT, catalog))
    return Made(catalog.sequence, data, Confirmation(LAYOUT, _digest(data)))


def write(store: ObjectStore, made: Made) -> None:
    """Keep a checkpoint, then let the hint name it. Failing to is harmless."""
    with contextlib.suppress(StoreError):
        store.put(checkpoint_key(made.sequence), made.data, "overwrite")
        store.put(LATEST, str(made.sequence).encode(), "overwrite")


def load(store: ObjectStore) -> Catalog:
    """The newest state: the newest confirmed checkpoint, and the log after it.

    Raises `StoreUnavailable`, or `BrokenChain` if the log itself is damaged.
    """
    return catch_up(CommitLog(store), newest(store))


def newest(store: ObjectStore) -> Catalog:
    """The state of the newest checkpoint that the log confirms; the empty state if there is none.

    The log after it remains to be read. Raises as `load`.
    """
    log = CommitLog(store)
    for sequence in _candidates(store):
        if (catalog := _confirmed(store, log, sequence)) is not None:
            return catalog
    return Catalog()


def _candidates(store: ObjectStore) -> Iterator[int]:
    """Checkpoints to try: the hint's, then the newest that are listed."""
    hinted = 0
    with contextlib.suppress(ObjectNotFound):
        hinted = _number(store.get(LATEST).strip().decode(errors="replace"))
        if hinted:
            yield hinted
    keys = (info.key.removeprefix("checkpoints/") for info in store.list("checkpoints/0"))
    listed = {_number(key.removesuffix(".json")) for key in keys} - {hinted, 0}
    yield from sorted(listed, reverse=True)[:CANDIDATES]


def _number(text: str) -> int:
    """A commit's number, or 0 for what is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else 0


def _confirmed(store: ObjectStore, log: CommitLog, sequence: int) -> Catalog | None:
    """The checkpoint's catalog, if the commit after it confirms these very bytes."""
    following = log.read(sequence + 1)
    if following is None or not isinstance(following.commit.checkpoint, Confirmation):
        return None
    said = following.commit.checkpoint
    try:
        data = store.get(checkpoint_key(sequence))
    except ObjectNotFound:
        return None
    if said.layout != LAYOUT or said.sha256 != _digest(data):
        return None
    try:
        catalog = msgspec.json.decode(data, type=Checkpoint).catalog
    except (ValueError, RecursionError):
        return None
    follows = (catalog.sequence, catalog.head) == (sequence, following.commit.previous)
    return catalog if follows else None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
