"""The commit log: one object per commit, each naming the digest of the one before.

To write is to put commit N+1 if it is absent. Whoever got no clear answer, or lost, reads N+1 back
and compares the commit's random id before concluding anything: a reply can be lost after the write
landed, and a repeat then reports a conflict with itself.
"""

import hashlib
import secrets
import time as clock
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

from registry.errors import (
    AlreadyExists,
    BrokenChain,
    NewerLog,
    ObjectNotFound,
    OutcomeUnknown,
    StoreError,
    TooLarge,
)
from registry.log.layout import LAYOUT
from registry.model.base import Entry
from registry.model.catalog import Catalog
from registry.model.machine import events, fold
from registry.store.base import ObjectStore

READ_BACK_TRIES = 5
READ_AHEAD = 16
"""Commits of a far store that are read at once by whoever is far behind."""
MAX_COMMIT = 16 << 20
"""Bytes of a commit that is written. Older logs may hold larger ones."""


SCHEMA = 1
"""Version of the commit's own layout; a reader refuses a commit with a higher one."""


class Confirmation(msgspec.Struct, frozen=True):
    """What a commit says of the checkpoint of the state before it."""

    layout: str
    """Which fields that state's writer knew (`registry.log.layout`)."""
    sha256: str
    """Of the checkpoint's bytes."""


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """One link of the chain, stored as `log/<sequence>.json`, written once."""

    schema: int = SCHEMA
    sequence: int
    id: str
    """Random, so that a writer whose reply was lost knows its own commit when it reads it."""
    time: str
    previous: str | None
    """SHA-256 of the previous commit's bytes; None only for commit 1."""
    entries: tuple[Entry, ...]
    checkpoint: Confirmation | msgspec.UnsetType = msgspec.UNSET
    """Of the state before this commit, where a checkpoint of it was due."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A commit as it lies in the store, and the SHA-256 of its bytes."""

    commit: Commit
    digest: str
    passed_over: int = 0
    """Events of it that this Lorary does not know, and need not."""


def commit_key(sequence: int) -> str:
    """Flat and of fixed width, since a listing is not in byte order on every store."""
    return f"log/{sequence:020d}.json"


class CommitLog:
    """Reads and appends commits; knows no catalog but the one it is handed."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self, sequence: int) -> Stored | None:
        """Commit `sequence`, or None if the log ends before it. Raises `BrokenChain`."""
        try:
            data = self._store.get(commit_key(sequence))
        except ObjectNotFound:
            return None
        return decode(data, sequence)

    def after(self, sequence: int) -> Iterator[Stored]:
        """Every commit after `sequence`, in order, until the log ends.

        The more commits there are, the more are read ahead, up to `READ_AHEAD` at once, where a
        read takes time. Raises what `read` raises, after the commits before the one concerned.
        """
        at_once = 1
        ahead = deque[Future[Stored | None]]()
        pool: ThreadPoolExecutor | None = None
        try:
            while True:
                if at_once == 1:
                    stored = self.read(sequence + 1)
                else:
                    pool = pool or ThreadPoolExecutor(READ_AHEAD, "read-ahead")
                    for number in range(sequence + 1 + len(ahead), sequence + 1 + at_once):
                        ahead.append(pool.submit(self.read, number))
                    stored = ahead.popleft().result()
                if stored is None:
                    return
                yield stored
                sequence += 1
                if not self._store.is_near:
                    at_once = min(READ_AHEAD, at_once + 1)
        finally:
            if pool is not None:
                pool.shutdown(wait=False, cancel_futures=True)

    def append(
        self,
        catalog: Catalog,
        entries: Sequence[Entry],
        time: str,
        checkpoint: Confirmation | None = None,
    ) -> Stored:
        """Write the commit after `catalog`, with what it says of the checkpoint of `catalog`.

        Returns it as every other process will read it.
        Raises `AlreadyExists` if somebody else wrote it first, `OutcomeUnknown` if that cannot be
        found out because the store stays silent, and `TooLarge` before anything is written.
        """
        commit = Commit(
            sequence=catalog.sequence + 1,
            id=secrets.token_hex(16),
            time=time,
            previous=catalog.head,
            entries=tuple(
                Entry(entry.actor, entry.event, entry.event.optional) for entry in entries
            ),
            checkpoint=checkpoint or msgspec.UNSET,
        )
        data = msgspec.json.encode(commit)
        if len(data) > MAX_COMMIT:
            raise TooLarge(f"A commit has at most {MAX_COMMIT >> 20} MiB. Send less at once.")
        try:
            self._store.put(commit_key(commit.sequence), data, "create")
        except (AlreadyExists, OutcomeUnknown) as doubt:
            return self._read_back(commit, data, doubt)
        return decode(data, commit.sequence)

    def _read_back(self, commit: Commit, data: bytes, doubt: StoreError) -> Stored:
        """Whether our commit landed after all."""
        for attempt in range(READ_BACK_TRIES):
            try:
                found = self.read(commit.sequence)
            except (StoreError, BrokenChain):  # a broken answer is no answer
                clock.sleep(0.1 * 2**attempt)
                continue
            if found is None and isinstance(doubt, OutcomeUnknown):
                # A write that is still under way may land later: only a second write settles it.
                try:
                    self._store.put(commit_key(commit.sequence), data, "create")
                    return decode(data, commit.sequence)
                except StoreError:
                    clock.sleep(0.1 * 2**attempt)
                    continue  # the first write may have landed all the same
            if found is not None and found.commit.id == commit.id:
                return found
            raise AlreadyExists(f"Somebody else wrote commit {commit.sequence}. Read it.")
        raise OutcomeUnknown(
            f"The store does not tell whether commit {commit.sequence} was written. "
            "Look with `lorary log` once it answers, then repeat the command if need be."
        )


class _Tagged(msgspec.Struct):
    """The fields that every event has, known or not."""

    type: str


class _Entry(msgspec.Struct):
    """An entry whose event was not read yet."""

    actor: str
    event: msgspec.Raw
    optional: bool = False


class _Commit(msgspec.Struct):
    """A commit whose events were not read yet."""

    schema: int
    sequence: int
    id: str
    time: str
    previous: str | None
    entries: list[_Entry]
    checkpoint: Confirmation | msgspec.UnsetType = msgspec.UNSET


def decode(data: bytes, sequence: int) -> Stored:
    """Parse a commit's bytes; raises `BrokenChain` unless they are commit `sequence`, and
    `NewerLog` if a newer Lorary wrote what must not be passed over."""
    try:
        raw = msgspec.json.decode(data, type=_Commit)
        if raw.schema > SCHEMA:
            raise NewerLog(f"Commit {sequence} has schema {raw.schema}. Update Lorary.")
        found = [_read_entry(entry, sequence) for entry in raw.entries]
    except (ValueError, RecursionError) as error:  # UTF-8 that is none is no MsgspecError
        raise BrokenChain(
            f"Commit {sequence} cannot be read: {error}. Restore {commit_key(sequence)} from a "
            "backup, or update Lorary if a newer one wrote it."
        ) from error
    if raw.sequence != sequence:
        raise BrokenChain(
            f"{commit_key(sequence)} holds commit {raw.sequence}. Restore it from a backup."
        )
    entries = tuple(entry for entry in found if entry is not None)
    commit = Commit(
        schema=raw.schema,
        sequence=raw.sequence,
        id=raw.id,
        time=raw.time,
        previous=raw.previous,
        entries=entries,
        checkpoint=raw.checkpoint,
    )
    return Stored(commit, _digest(data), passed_over=len(found) - len(entries))


def _read_entry(raw: _Entry, sequence: int) -> Entry | None:
    """The entry; None if this Lorary does not know its event and may pass over it."""
    tag = msgspec.json.decode(raw.event, type=_Tagged).type
    kind = events().get(tag)
    if kind is not None:
        return Entry(raw.actor, msgspec.json.decode(raw.event, type=kind), raw.optional)
    if raw.optional:
        return None
    raise NewerLog(
        f"Commit {sequence} holds a {tag[:60]!r} event, which this Lorary does not know and must "
        "not pass over. Update Lorary."
    )


def follow(catalog: Catalog, stored: Stored) -> Catalog:
    """The state after `stored`; raises `BrokenChain` unless it follows `catalog`."""
    if stored.commit.previous != catalog.head:
        raise BrokenChain(
            f"Commit {stored.commit.sequence} does not follow the one before it: the log was "
            "tampered with. Compare it with a backup."
        )
    try:
        after = fold(catalog, stored.commit.entries, stored.commit.time)
    except (LookupError, TypeError, ValueError) as error:
        raise BrokenChain(
            f"Commit {stored.commit.sequence} contradicts the state before it: {error!r}. The log "
            "was tampered with. Compare it with a backup."
        ) from error
    said = stored.commit.checkpoint
    confirms = isinstance(said, Confirmation) and said.layout == LAYOUT
    return after.changed(
        sequence=stored.commit.sequence,
        head=stored.digest,
        time=stored.commit.time,
        confirmed=stored.commit.sequence - 1 if confirms else catalog.confirmed,
        passed_over=catalog.passed_over + stored.passed_over,
    )


def advance(log: CommitLog, catalog: Catalog) -> Iterator[Catalog]:
    """The state after each commit that follows `catalog`, until the log ends.

    Whoever keeps each of them goes on, after an error, from where it stopped.
    """
    for stored in log.after(catalog.sequence):
        catalog = follow(catalog, stored)
        yield catalog


def catch_up(log: CommitLog, catalog: Catalog) -> Catalog:
    """The state after every commit."""
    for newer in advance(log, catalog):
        catalog = newer
    return catalog


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
