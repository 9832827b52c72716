"""Which adapters requests wait for."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Waiting:
    """Pinned names of adapters, each with how many requests wait for it."""

    def __init__(self) -> None:
        self._requests: Counter[str] = Counter()

    @property
    def names(self) -> list[str]:
        """The names, in the order in which the first request for each came."""
        return list(self._requests)

    @contextmanager
    def request(self, name: str) -> Iterator[None]:
        """One request waits for `name` while the context lasts."""
        self._requests[name] += 1
        try:
            yield
        finally:
            self._requests[name] -= 1
            if not self._requests[name]:
                del self._requests[name]
