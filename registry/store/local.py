"""An object store in a local directory: the embedded default, right under many processes.

An object is written to a file of its own, flushed to the disk, and only then linked (`create`) or
renamed (`overwrite`) to its name, both of which the kernel does at once or not at all. So a reader
never sees half an object, and a writer killed at any point leaves at most a file in `.tmp`.
It needs a file system with hard links; use S3 where several machines share a store, since some
network file systems do not keep these promises.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from registry.errors import AlreadyExists, ObjectNotFound, StoreError, StoreUnavailable
from registry.store.base import ObjectInfo, PutMode
from registry.store.keys import check_key

TEMPORARY = ".tmp"


class LocalStore:
    """Objects as files below `root`, readable by their owner only."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()

    @property
    def url(self) -> str:
        """The directory."""
        return str(self.root)

    is_near = True

    def get(self, key: str) -> bytes:
        """The whole object; raises `ObjectNotFound`."""
        try:  # asked on every request whether the log goes on, so it takes the shortest way
            with open(f"{self.root}/{check_key(key)}", "rb") as file:  # noqa: PTH123
                return file.read()
        except FileNotFoundError:
            raise _missing(key) from None
        except OSError as error:
            raise _explanation(key, error) from error

    def stream(self, key: str, *, start: int = 0, chunk: int = 1 << 20) -> Iterator[bytes]:
        """The object from byte `start` on, in pieces of at most `chunk` bytes."""
        with self._reading(key) as file:
            file.seek(start)
            while piece := file.read(chunk):
                yield piece

    def head(self, key: str) -> ObjectInfo:
        """Size without content."""
        with _explained(key):
            found = self._path(key).stat()
            return ObjectInfo(key, found.st_size, found.st_mtime)

    def put(self, key: str, data: bytes, mode: PutMode) -> None:
        """Store `data`; see `ObjectStore.put`. The outcome is never unknown here."""
        with self._temporary() as (file, temporary):
            file.write(data)
            self._publish(file, temporary, key, mode)

    def put_file(self, key: str, path: Path, *, sha256: str) -> None:  # noqa: ARG002 - S3 checks it
        """Store a file's content, overwriting."""
        with path.open("rb") as source, self._temporary() as (file, temporary):
            while piece := source.read(1 << 20):
                file.write(piece)
            self._publish(file, temporary, key, "overwrite")

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`."""
        start = self.root / prefix.rpartition("/")[0]
        for folder, _, names in os.walk(start):
            if Path(folder) == self.root / TEMPORARY:
                continue
            for name in names:
                path = Path(folder, name)
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix):
                    with contextlib.suppress(FileNotFoundError):
                        found = path.stat()
                        yield ObjectInfo(key, found.st_size, found.st_mtime)

    def delete(self, key: str) -> None:
        """Remove the object if it is there."""
        with _explained(key), contextlib.suppress(FileNotFoundError):
            self._path(key).unlink()

    def signed_put(self, key: str, *, sha256: str, size: int) -> None:
        """A directory cannot be written by clients."""

    def signed_get(self, key: str) -> None:
        """A directory cannot be read by clients."""

    def put_stream(self, key: str, pieces: Iterable[bytes]) -> None:
        """Store what `pieces` yields, overwriting."""
        with self._temporary() as (file, temporary), _explained(key):
            for piece in pieces:
                file.write(piece)
            self._publish(file, temporary, key, "overwrite")

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    @contextlib.contextmanager
    def _reading(self, key: str) -> Iterator[IO[bytes]]:
        with _explained(key), self._path(key).open("rb") as file:
            yield file

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[tuple[IO[bytes], Path]]:
        """An empty file that is gone afterwards, whatever became of its content."""
        folder = self.root / TEMPORARY
        with _explained(str(folder)):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, name = tempfile.mkstemp(dir=folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    yield file, Path(name)
            finally:
                Path(name).unlink(missing_ok=True)

    def _publish(self, file: IO[bytes], temporary: Path, key: str, mode: PutMode) -> None:
        path = self._path(key)
        file.flush()
        os.fsync(file.fileno())
        self._make_folder(path.parent)
        if mode == "create":
            try:
                path.hardlink_to(temporary)
            except FileExistsError as error:
                raise AlreadyExists(f"{key} exists. Read it.") from error
        else:
            temporary.replace(path)
        _flush_folder(path.parent)

    def _make_folder(self, folder: Path) -> None:
        """Make `folder` and its parents, each recorded on the disk in the one above."""
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True, mode=0o700)
        _flush_folder(folder.parent)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(key: str) -> Iterator[None]:
    """Turn the operating system's errors into the store's."""
    try:
        yield
    except OSError as error:
        raise _explanation(key, error) from error


def _missing(key: str) -> ObjectNotFound:
    return ObjectNotFound(f"There is no object {key}. Check the store's address.")


def _explanation(key: str, error: OSError) -> StoreError:
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return _missing(key)
    reason = error.strerror or str(error)
    return StoreUnavailable(f"{key}: {reason}. Check the disk and its permissions.")
