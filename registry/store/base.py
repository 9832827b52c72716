"""What the registry needs of an object store, and nothing more.

Every implementation gives: read-after-write and list-after-write consistency; `create` that has
exactly one winner among any number of processes; and three answers to a write, never two: it
returned (it is there), `AlreadyExists` (somebody else won), `OutcomeUnknown` (nobody knows: read
before retrying). Any method raises `StoreUnavailable` when the store cannot be used at all.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

PutMode = Literal["create", "overwrite"]
"""`create`: only if the key is absent, else `AlreadyExists`. `overwrite`: last writer wins."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """A stored object's key, size in bytes, and when it was written (seconds since 1970)."""

    key: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class SignedPut:
    """A request that anybody may make for an hour: these bytes, under this key, nothing else."""

    url: str
    headers: Mapping[str, str]


class ObjectStore(Protocol):
    """Keys are `/`-separated, `[A-Za-z0-9._/-]`, without empty, `.` or `..` parts."""

    @property
    def url(self) -> str:
        """Where it is, for people; holds no secret."""
        ...

    @property
    def is_near(self) -> bool:
        """Whether a small read takes microseconds, so that handing it to a thread costs more."""
        ...

    def get(self, key: str) -> bytes:
        """The whole object; raises `ObjectNotFound`. For small objects: commits, checkpoints."""
        ...

    def stream(self, key: str, *, start: int = 0, chunk: int = 1 << 20) -> Iterator[bytes]:
        """The object from byte `start` on, in pieces of at most `chunk` bytes.

        Raises `ObjectNotFound` at the first."""
        ...

    def head(self, key: str) -> ObjectInfo:
        """Size without content; raises `ObjectNotFound`."""
        ...

    def put(self, key: str, data: bytes, mode: PutMode) -> None:
        """Store `data` durably before returning. Raises `AlreadyExists`, `OutcomeUnknown`."""
        ...

    def put_file(self, key: str, path: Path, *, sha256: str) -> None:
        """Store a file's content durably, overwriting; raises `DigestMismatch` if the store
        verifies the digest and finds another."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, in no promised order."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object if it is there."""
        ...

    def signed_put(self, key: str, *, sha256: str, size: int) -> SignedPut | None:
        """How a client may store the content with that digest by itself; None if it cannot.

        The store accepts no other content, so the request may be given to anybody."""
        ...

    def signed_get(self, key: str) -> str | None:
        """Where a client may read the object by itself for an hour; None if it cannot."""
        ...

    def put_stream(self, key: str, pieces: Iterable[bytes]) -> None:
        """Store what `pieces` yields, overwriting, however much it is, in flat memory.

        Nothing appears if `pieces` raises; its error goes on. Raises `OutcomeUnknown`."""
        ...
