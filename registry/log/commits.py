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
from typing import get_args

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
from registry.model.catalog import Catalog
from registry.model.events import OPTIONAL, SCHEMA, AnyEvent, Commit, Confirmation, Entry
from registry.model.fold import fold_commit
from registry.store.base import ObjectStore

READ_BACK_TRIES = 5
READ_AHEAD = 16
"""Commits of a far store that are read at once by whoever is far behind."""
MAX_COMMIT = 16 << 20
"""Bytes of a commit that is written. Older logs may hold larger ones."""


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

        Raises `AlreadyExists` if somebody else wrote it first, `OutcomeUnknown` if that cannot be
        found out because the store stays silent, and `TooLarge` before anything is written.
        """
        commit = Commit(
            sequence=catalog.sequence + 1,
            id=secrets.token_hex(16),
            time=time,
            previous=catalog.head,
            entries=tuple(
                Entry(entry.actor, entry.event, type(entry.event) in OPTIONAL) for entry in entries
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
        return Stored(commit, _digest(data))

    def _read_back(self, commit: Commit, data: bytes, doubt: StoreError) -> Stored:
        """Whether our commit landed after all."""
        for attempt in range(READ_BACK_TRIES):
            try:
                found = self.read(commit.sequence)
            except StoreError:
                clock.sleep(0.1 * 2**attempt)
                continue
            if found is None and isinstance(doubt, OutcomeUnknown):
                # A write that is still under way may land later: only a second write settles it.
                try:
                    self._store.put(commit_key(commit.sequence), data, "create")
                    return Stored(commit, _digest(data))
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
    """What any event tells of itself, known or not."""

    type: str


class _OpaqueEntry(msgspec.Struct):
    actor: str
    event: msgspec.Raw
    optional: bool = False


class _OpaqueCommit(msgspec.Struct):
    """A commit whose events were not read yet."""

    schema: int
    sequence: int
    id: str
    time: str
    previous: str | None
    entries: list[_OpaqueEntry]
    checkpoint: Confirmation | msgspec.UnsetType = msgspec.UNSET


def decode(data: bytes, sequence: int) -> Stored:
    """Parse a commit's bytes; raises `BrokenChain` unless they are commit `sequence`, and
    `NewerLog` if a newer Lorary wrote what must not be passed over."""
    passed_over = 0
    try:
        commit = msgspec.json.decode(data, type=Commit)
    except (msgspec.MsgspecError, RecursionError):
        commit, passed_over = _decode_newer(data, sequence)
    if commit.schema > SCHEMA:
        raise NewerLog(f"Commit {sequence} has schema {commit.schema}. Update Lorary.")
    if commit.sequence != sequence:
        raise BrokenChain(
            f"{commit_key(sequence)} holds commit {commit.sequence}. Restore it from a backup."
        )
    return Stored(commit, _digest(data), passed_over)


def _decode_newer(data: bytes, sequence: int) -> tuple[Commit, int]:
    """What can be read of a commit with events that are not known here, and how many those are."""
    try:
        opaque = msgspec.json.decode(data, type=_OpaqueCommit)
        if opaque.schema > SCHEMA:
            raise NewerLog(f"Commit {sequence} has schema {opaque.schema}. Update Lorary.")
        entries, unknown = list[Entry](), 0
        for entry in opaque.entries:
            tag = msgspec.json.decode(entry.event, type=_Tagged).type
            if tag in _KNOWN:
                event: AnyEvent = msgspec.json.decode(entry.event, type=AnyEvent)
                entries.append(Entry(entry.actor, event, entry.optional))
            elif entry.optional:
                unknown += 1
            else:
                raise NewerLog(
                    f"Commit {sequence} holds a {tag[:60]!r} event, which this Lorary does not "
                    "know and must not pass over. Update Lorary."
                )
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BrokenChain(
            f"Commit {sequence} cannot be read: {error}. Restore {commit_key(sequence)} from a "
            "backup, or update Lorary if a newer one wrote it."
        ) from error
    commit = Commit(
        schema=opaque.schema,
        sequence=opaque.sequence,
        id=opaque.id,
        time=opaque.time,
        previous=opaque.previous,
        entries=tuple(entries),
        checkpoint=opaque.checkpoint,
    )
    return commit, unknown


_KNOWN = frozenset(str(event.__struct_config__.tag) for event in get_args(AnyEvent))
"""The tags of the events that this Lorary knows."""


def follow(catalog: Catalog, stored: Stored) -> Catalog:
    """The state after `stored`; raises `BrokenChain` unless it follows `catalog`."""
    if stored.commit.previous != catalog.head:
        raise BrokenChain(
            f"Commit {stored.commit.sequence} does not follow the one before it: the log was "
            "tampered with. Compare it with a backup."
        )
    after = fold_commit(catalog, stored.commit, stored.digest)
    if stored.passed_over:
        seen = catalog.passed_over + stored.passed_over
        after = msgspec.structs.replace(after, passed_over=seen)
    return after


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
