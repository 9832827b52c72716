"""Which of several registry processes delivers, and what it has delivered so far.

The progress of all webhooks is one object in the store, `webhooks/<epoch>.json`. A process takes
over by creating the object of the next epoch, which has exactly one winner, and from then on writes
only that one. So a process that was replaced without noticing cannot undo what its successor wrote.
The others watch the object: if it does not change for `STALE_SECONDS`, its process is taken for
dead. No clocks are compared.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Mapping

import msgspec

from registry.errors import AlreadyExists, ObjectNotFound, OutcomeUnknown
from registry.notify.progress import Progress
from registry.store.base import ObjectStore

PREFIX = "webhooks/"
STALE_SECONDS = 15.0
"""After which the object of a process that delivers is taken for abandoned."""
SAVE_SECONDS = 5.0
"""At least so often it is written, changed or not."""
EPOCHS_KEPT = 3


class Saved(msgspec.Struct, frozen=True):
    """What a process that delivers writes."""

    epoch: int
    owner: str
    """Random."""
    beat: int = 0
    """Counts the writes."""
    released: bool = False
    """Whether the process ended in order."""
    hooks: dict[str, Progress] = {}


class Lease:
    """One process's claim to deliver. Thread-safe."""

    def __init__(self, store: ObjectStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._owner = secrets.token_hex(8)
        self._held: Saved | None = None
        self._written = 0.0
        self._seen: tuple[int, int] | None = None
        self._seen_since = 0.0
        self._lock = threading.Lock()

    @property
    def is_held(self) -> bool:
        """Whether this process delivers. Ends by itself, before others take over, if it could not
        write for long."""
        return self._held is not None and self._age < STALE_SECONDS / 2

    @property
    def is_due(self) -> bool:
        """Whether it must be written again, changed or not."""
        return self._age >= SAVE_SECONDS

    @property
    def _age(self) -> float:
        return self._clock() - self._written

    def acquire(self) -> Mapping[str, Progress] | None:
        """The progress to go on from, if it is this process's turn now; else None.

        Raises `StoreError`.
        """
        with self._lock:
            return self._acquire()

    def save(self, hooks: Mapping[str, Progress], *, released: bool = False) -> bool:
        """Write how far the deliveries are; False if another process has taken over.

        Raises `StoreError`.
        """
        with self._lock:
            return self._save(hooks, released)

    def _acquire(self) -> Mapping[str, Progress] | None:
        self._held = None
        now, last = self._clock(), newest(self._store)
        if last is not None and last.owner != self._owner and not last.released:
            if self._seen != (last.epoch, last.beat):
                self._seen, self._seen_since = (last.epoch, last.beat), now
            if now - self._seen_since < STALE_SECONDS:
                return None
        epoch = last.epoch + 1 if last else 1
        mine = Saved(epoch, self._owner, hooks=last.hooks if last else {})
        with contextlib.suppress(AlreadyExists, OutcomeUnknown):
            self._store.put(_key(epoch), msgspec.json.encode(mine), "create")
        # Read back: the reply may have been lost, or a slow process may have created an old epoch.
        if newest(self._store) != mine:
            return None
        self._held, self._written = mine, now
        for old in _epochs(self._store)[:-EPOCHS_KEPT]:
            self._store.delete(_key(old))
        return mine.hooks

    def _save(self, hooks: Mapping[str, Progress], released: bool) -> bool:
        held, now = self._held, self._clock()
        if held is None or _epochs(self._store)[-1:] != [held.epoch]:
            self._held = None
            return False
        mine = Saved(held.epoch, self._owner, held.beat + 1, released, dict(hooks))
        self._store.put(_key(held.epoch), msgspec.json.encode(mine), "overwrite")
        self._held, self._written = None if released else mine, now
        return True


def newest(store: ObjectStore) -> Saved | None:
    """What the process that delivers wrote last; None if none ever did."""
    for epoch in reversed(_epochs(store)):
        with contextlib.suppress(ObjectNotFound):
            return msgspec.json.decode(store.get(_key(epoch)), type=Saved)
    return None


def _epochs(store: ObjectStore) -> list[int]:
    keys = (info.key.removeprefix(PREFIX).removesuffix(".json") for info in store.list(PREFIX))
    return sorted(int(key) for key in keys if key.isascii() and key.isdigit())


def _key(epoch: int) -> str:
    return f"{PREFIX}{epoch:012d}.json"
