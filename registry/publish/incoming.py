"""Content on its way in: it goes to the disk as it comes, and is measured and hashed on the way."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class Incoming:
    """What has come so far."""

    def __init__(self, file: IO[bytes]) -> None:
        self.size = 0
        """Bytes that came."""
        self._file = file
        self._hashing = hashlib.sha256()

    def add(self, piece: bytes) -> None:
        """The next piece."""
        self.size += len(piece)
        self._hashing.update(piece)
        self._file.write(piece)

    @property
    def sha256(self) -> str:
        """The SHA-256 of what came, in hexadecimal."""
        return self._hashing.hexdigest()

    @property
    def path(self) -> Path:
        """A file that holds all of what came."""
        self._file.flush()
        return Path(self._file.name)


@contextmanager
def incoming() -> Iterator[Incoming]:
    """Take content in; its file is gone afterwards, however that ends. Bounds are the caller's."""
    with tempfile.NamedTemporaryFile(prefix="lorary-incoming-") as file:
        yield Incoming(file)
