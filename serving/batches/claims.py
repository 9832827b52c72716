"""Which of several replicas works on a batch.

A replica takes a batch by creating the next of its `claims/N`, which has exactly one winner, and
writes that object again every few seconds. The others watch the newest claim: one that does not
change for `STALE_SECONDS` is of a replica that died, and the next may be created. No clocks are
compared. A replica that was replaced without noticing does no harm: the batch's log takes each
entry once.
"""

import secrets
import time
from collections.abc import Callable

from registry.errors import AlreadyExists, ObjectNotFound, OutcomeUnknown
from registry.store.base import ObjectInfo, ObjectStore

BEAT_SECONDS = 5.0
"""How often a claim is written again."""
STALE_SECONDS = 30.0
_FREE = "-free"
"""The end of the key that gives claim N back."""


class Claim:
    """One replica's claim to one batch. Use it in a thread."""

    def __init__(self, store: ObjectStore, prefix: str, number: int, token: bytes) -> None:
        self._store, self._prefix = store, prefix
        self._number, self._token = number, token
        self._beats = 0

    def beat(self) -> bool:
        """Write it again; False if another replica has taken over."""
        if _newest(self._store, self._prefix) != (self._number, False):
            return False
        self._beats += 1
        data = self._token + b" %d" % self._beats
        self._store.put(_key(self._prefix, self._number), data, "overwrite")
        return True

    def release(self) -> None:
        """Give it back, so that others need not wait."""
        if _newest(self._store, self._prefix) == (self._number, False):
            self._store.put(_key(self._prefix, self._number) + _FREE, b"", "overwrite")


class Claims:
    """What one replica has seen of all claims. Use it in one thread at a time."""

    def __init__(self, store: ObjectStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._seen: dict[str, tuple[ObjectInfo, float]] = {}

    def take(self, work: str) -> Claim | None:
        """The claim to a batch, if nobody alive has it; else None. work: `Batches.work`."""
        prefix = f"{work}claims/"
        infos = sorted(self._store.list(prefix), key=lambda info: info.key)
        number = 0
        if infos:
            last = infos[-1]
            number, free = _read(last.key)
            if not free and not self._is_stale(prefix, last):
                return None
        token = secrets.token_hex(8).encode()
        key = _key(prefix, number + 1)
        try:
            self._store.put(key, token, "create")
        except AlreadyExists:
            return None
        except OutcomeUnknown:
            try:
                if self._store.get(key) != token:
                    return None
            except ObjectNotFound:
                return None
        self._seen.pop(prefix, None)
        for info in infos:
            self._store.delete(info.key)
        return Claim(self._store, prefix, number + 1, token)

    def forget_all_but(self, ids: set[str]) -> None:
        """Forget what was seen of other batches than these: they have ended."""
        seen = self._seen.items()
        self._seen = {prefix: it for prefix, it in seen if prefix.split("/")[-3] in ids}

    def _is_stale(self, prefix: str, last: ObjectInfo) -> bool:
        now = self._clock()
        seen, since = self._seen.get(prefix, (None, now))
        if seen != last:
            self._seen[prefix] = (last, now)
            return False
        return now - since >= STALE_SECONDS


def _newest(store: ObjectStore, prefix: str) -> tuple[int, bool]:
    return max((_read(info.key) for info in store.list(prefix)), default=(0, False))


def _read(key: str) -> tuple[int, bool]:
    """The number of a claim, and whether it was given back."""
    name = key.rpartition("/")[2]
    return int(name.removesuffix(_FREE)), name.endswith(_FREE)


def _key(prefix: str, number: int) -> str:
    return f"{prefix}{number:08d}"
