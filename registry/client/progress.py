"""How long transfers tell how far they are."""

import threading
from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with a file's name, how many of its bytes are done, and how many there are."""


def no_progress(_name: str, _done: int, _total: int) -> None:
    """Tell nobody."""


class Counter:
    """Adds up what several threads have moved of one file."""

    def __init__(self, name: str, total: int, progress: Progress, *, done: int = 0) -> None:
        self._name, self._total, self._progress = name, total, progress
        self._done = done
        self._adding = threading.Lock()
        progress(name, done, total)

    def add(self, moved: int) -> None:
        """`moved` more bytes are done (or undone, if negative)."""
        with self._adding:
            self._done += moved
            self._progress(self._name, self._done, self._total)
