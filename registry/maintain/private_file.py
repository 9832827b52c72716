"""A file of secrets: only its owner can read it, and it is there whole or not at all."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from registry.errors import BadRequest


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file to write, which takes the place of `path` once the block has ended, flushed to the
    disk. If the block raises, `path` stays as it was. Who has a file open or linked that was there
    before reads nothing of the new one.

    Raises `BadRequest` if it cannot be written, before the block where that can be known.
    """
    try:
        _require_no_other(path)
        descriptor, name = tempfile.mkstemp(".part", f".{path.name}.", path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(descriptor)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise BadRequest(
            f"{path} cannot be written: {error.strerror or error}. Name another file."
        ) from error


def _require_no_other(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "It is not a file")
