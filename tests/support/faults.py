"""A store whose next operations go wrong in chosen ways."""

import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, Literal

from registry.errors import OutcomeUnknown, StoreUnavailable
from registry.store import ObjectStore
from registry.store.base import PutMode

Fault = Literal["none", "lost before", "lost after", "refused", "cut"]
"""none; the write did not land and no answer came; it landed and no answer came; the store is away;
reading breaks off in the middle."""


class FaultyStore:
    """Passes everything on, each write or read with the next fault in line."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._faults: deque[Fault] = deque()
        self._taking = threading.Lock()

    def plan(self, faults: list[Fault]) -> None:
        """What will go wrong next, in order; afterwards nothing."""
        with self._taking:
            self._faults = deque(faults)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, key: str, data: bytes, mode: PutMode) -> None:
        """As the next fault says."""
        fault = self._next()
        if fault == "refused":
            raise StoreUnavailable("injected: the store is away")
        if fault != "lost before":
            self._store.put(key, data, mode)
        if fault in ("lost before", "lost after", "cut"):
            raise OutcomeUnknown(f"injected: no answer ({fault})")

    def get(self, key: str) -> bytes:
        """As the next fault says."""
        if self._next() in ("refused", "lost before", "cut"):
            raise StoreUnavailable("injected: the store is away")
        return self._store.get(key)

    def stream(self, key: str, *, start: int = 0, chunk: int = 1 << 20) -> Iterator[bytes]:
        """As the next fault says."""
        if self._next() in ("refused", "lost before", "cut"):
            raise StoreUnavailable("injected: the answer broke off")
        return self._store.stream(key, start=start, chunk=chunk)

    def _next(self) -> Fault:
        with self._taking:
            return self._faults.popleft() if self._faults else "none"
