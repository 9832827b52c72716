"""A store that takes nothing new: for a registry that shall only be read for a while."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from registry.errors import ReadOnly
from registry.store.base import ObjectInfo, ObjectStore, PutMode, SignedPut


class ReadOnlyStore:
    """Reads pass; whatever would change an object raises `ReadOnly` before the store is asked."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @property
    def url(self) -> str:
        """The store's own."""
        return self._store.url

    @property
    def is_near(self) -> bool:
        """As the store."""
        return self._store.is_near

    def get(self, key: str) -> bytes:
        """As the store."""
        return self._store.get(key)

    def stream(self, key: str, *, start: int = 0, chunk: int = 1 << 20) -> Iterator[bytes]:
        """As the store."""
        return self._store.stream(key, start=start, chunk=chunk)

    def head(self, key: str) -> ObjectInfo:
        """As the store."""
        return self._store.head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """As the store."""
        return self._store.list(prefix)

    def signed_get(self, key: str) -> str | None:
        """As the store."""
        return self._store.signed_get(key)

    def put(self, key: str, data: bytes, mode: PutMode) -> None:
        """Refused."""
        raise _refusal()

    def put_file(self, key: str, path: Path, *, sha256: str) -> None:
        """Refused."""
        raise _refusal()

    def delete(self, key: str) -> None:
        """Refused."""
        raise _refusal()

    def signed_put(self, key: str, *, sha256: str, size: int) -> SignedPut | None:
        """Refused: it would be a way around."""
        raise _refusal()

    def put_stream(self, key: str, pieces: Iterable[bytes]) -> None:
        """Refused."""
        raise _refusal()


def _refusal() -> ReadOnly:
    return ReadOnly(
        "The registry is read-only for now; nothing was changed. Try again once its operator has "
        "ended that (LORARY_READ_ONLY)."
    )
