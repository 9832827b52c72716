"""A whole registry as one tar file: its log, and every blob that the log needs.

An import writes the first commit last: until then the store holds no registry, so an import that
broke off can be repeated.
"""

import io
import re
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from registry.blobs import Blobs, blob_key
from registry.catalog import Catalog, blobs_in_use
from registry.errors import BadRequest, Conflict, DigestMismatch, RegistryMissing
from registry.incoming import incoming
from registry.log import CommitLog, catch_up, commit_key, decode, follow
from registry.store import ObjectStore

Progress = Callable[[str, int, int], None]
_LOG = re.compile(r"log/(\d{20})\.json")
_BLOB = re.compile(r"blobs/sha256/[0-9a-f]{2}/([0-9a-f]{64})")
MAX_COMMIT = 64 << 20


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Tell nobody."""


def export(store: ObjectStore, path: Path, progress: Progress = no_progress) -> Catalog:
    """Write the registry in `store` to the tar file `path`; every blob is verified on the way.

    Raises `RegistryMissing`, `DigestMismatch` for a damaged blob, `BrokenChain`.
    """
    catalog = catch_up(CommitLog(store), Catalog())
    if catalog.sequence == 0:
        raise RegistryMissing(f"{store.url} holds no registry. Nothing was exported.")
    needed = sorted(blobs_in_use(catalog))
    partial = path.with_name(f".{path.name}.part")
    try:
        with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
            for done, digest in enumerate(needed, start=1):
                size = store.head(blob_key(digest)).size
                pieces = Blobs(store).stream(digest, size)
                archive.addfile(_entry(blob_key(digest), size), _Reader(pieces))
                progress("blobs", done, len(needed))
            for sequence in range(1, catalog.sequence + 1):
                data = store.get(commit_key(sequence))
                archive.addfile(_entry(commit_key(sequence), len(data)), io.BytesIO(data))
                progress("commits", sequence, catalog.sequence)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return catalog


def import_(store: ObjectStore, path: Path, progress: Progress = no_progress) -> Catalog:
    """Fill an empty `store` from the tar file `path`, which may be hostile: nothing but blobs of
    their digest, and an unbroken chain of commits, is taken.

    Raises `Conflict` if the store holds a registry, `BadRequest`, `DigestMismatch`, `BrokenChain`.
    """
    if CommitLog(store).read(1) is not None:
        raise Conflict(f"{store.url} holds a registry already. Import into an empty store.")
    catalog, first = Catalog(), b""
    try:
        # A stream, read once from front to back: no entry can point elsewhere.
        with tarfile.open(path, "r|") as archive:
            for count, entry in enumerate(archive, start=1):
                content = archive.extractfile(entry) if entry.isreg() else None
                blob, commit = _BLOB.fullmatch(entry.name), _LOG.fullmatch(entry.name)
                if content is None or not (blob or commit):
                    raise BadRequest(f"{entry.name[:100]!r} does not belong in an export.")
                if blob:
                    _take_blob(store, content, blob[1])
                elif entry.size > MAX_COMMIT:
                    raise BadRequest(f"{entry.name} is too large for a commit.")
                else:
                    data = content.read()
                    catalog = follow(catalog, decode(data, catalog.sequence + 1))
                    if catalog.sequence == 1:
                        first = data
                    else:
                        store.put(commit_key(catalog.sequence), data, "overwrite")
                progress("entries", count, 0)
    except tarfile.TarError as error:
        raise BadRequest(f"{path} is no export: {error}. Export the registry again.") from error
    if catalog.sequence == 0:
        raise BadRequest(f"{path} holds no log. Export the registry again.")
    if missing := Blobs(store).missing(blobs_in_use(catalog)):
        raise BadRequest(f"The export lacks {len(missing)} blob(s). Export the registry again.")
    store.put(commit_key(1), first, "create")
    return catalog


def _take_blob(store: ObjectStore, content: IO[bytes], digest: str) -> None:
    with incoming() as taken:
        while piece := content.read(1 << 20):
            taken.add(piece)
        if taken.sha256 != digest:
            raise DigestMismatch(f"Blob {digest[:12]} of the export is damaged. Export again.")
        Blobs(store).put_file(taken.path, digest)


class _Reader(io.RawIOBase):
    """Pieces as a file that can be read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""

    def readable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        got = [self._left]
        length = len(self._left)
        while length < size and (piece := next(self._pieces, b"")):
            got.append(piece)
            length += len(piece)
        data = b"".join(got)
        self._left = data[size:]
        return data[:size]


def _entry(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, int(time.time())
    return info
