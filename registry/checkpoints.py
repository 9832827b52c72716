"""The folded state, kept now and then so that a start need not read the whole log.

A checkpoint is a cache. It is written after its commit was acknowledged, its loss costs time only,
and one that cannot be read, or that the log does not continue, is passed over.
"""

import contextlib
import hashlib
from typing import Any

import msgspec

from registry.catalog import Catalog
from registry.errors import BrokenChain, ObjectNotFound, StoreError
from registry.log import CommitLog, catch_up
from registry.store.base import ObjectStore

EVERY = 50
"""Commits between two checkpoints, at the least."""
SHARE = 100
"""A checkpoint holds at most this many entries for each commit since the one before it, so that
writing them costs each commit a bounded share however large the registry grows."""
LATEST = "checkpoints/latest"
FOLD = 1
"""Raise it when `fold` gives a field another meaning without changing any field."""


class Checkpoint(msgspec.Struct, frozen=True):
    """A catalog and the layout it was written in."""

    layout: str
    catalog: Catalog


def layout_of(kind: type[msgspec.Struct]) -> str:
    """SHA-256 of the names, types and defaults of every field that `kind` holds, at any depth.

    A reader that lacks a field would drop its content without noticing, so a checkpoint is read
    only by the layout that wrote it.
    """
    schema = _without_texts(msgspec.json.schema(kind))
    return hashlib.sha256(msgspec.json.encode([FOLD, schema], order="sorted")).hexdigest()


def _without_texts(schema: Any) -> Any:
    """A JSON schema without its titles and descriptions, which change no layout."""
    if isinstance(schema, list):
        return [_without_texts(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: _without_texts(part)
        for name, part in schema.items()
        if not (name in ("title", "description") and isinstance(part, str))
    }


LAYOUT = layout_of(Catalog)
"""Of the catalog as this Lorary knows it. Checkpoints of any other layout are not used."""


def checkpoint_key(sequence: int) -> str:
    """Where the checkpoint of that commit lies."""
    return f"checkpoints/{sequence:020d}.json"


def due(catalog: Catalog) -> bool:
    """Whether the commit just made is one to keep a checkpoint of. The same in every process."""
    entries = sum(1 + len(adapter.versions) for adapter in catalog.adapters.values())
    spacing = EVERY
    while spacing * SHARE < entries:
        spacing *= 2
    return catalog.sequence % spacing == 0


def write(store: ObjectStore, catalog: Catalog) -> None:
    """Keep `catalog`, then let the hint name it. Failing to is harmless."""
    data = msgspec.json.encode(Checkpoint(LAYOUT, catalog))
    with contextlib.suppress(StoreError):
        store.put(checkpoint_key(catalog.sequence), data, "overwrite")
        store.put(LATEST, str(catalog.sequence).encode(), "overwrite")


def load(store: ObjectStore) -> Catalog:
    """The newest state: the newest usable checkpoint, and the log after it.

    Raises `StoreUnavailable`, or `BrokenChain` if the log itself is damaged.
    """
    log = CommitLog(store)
    for sequence in _candidates(store):
        catalog = _read(store, sequence)
        if catalog is None or not _in_log(log, catalog):
            continue
        with contextlib.suppress(BrokenChain):
            return catch_up(log, catalog)
    return catch_up(log, Catalog())


def _candidates(store: ObjectStore) -> list[int]:
    """Checkpoints to try, newest first: the hint's, then every one that is listed."""
    try:
        return [int(store.get(LATEST))]
    except (ObjectNotFound, ValueError):
        names = (info.key.removeprefix("checkpoints/") for info in store.list("checkpoints/0"))
        return sorted((int(name[:20]) for name in names if name[:20].isdigit()), reverse=True)


def _read(store: ObjectStore, sequence: int) -> Catalog | None:
    try:
        data = store.get(checkpoint_key(sequence))
        checkpoint = msgspec.json.decode(data, type=Checkpoint)
    except (ObjectNotFound, msgspec.MsgspecError):
        return None
    usable = checkpoint.layout == LAYOUT and checkpoint.catalog.sequence == sequence
    return checkpoint.catalog if usable else None


def _in_log(log: CommitLog, catalog: Catalog) -> bool:
    """Whether the log holds the very commit that the checkpoint was folded up to."""
    stored = log.read(catalog.sequence)
    return stored is not None and stored.digest == catalog.head
