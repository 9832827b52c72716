"""A whole registry as one tar file: its log, and every blob that the log needs.

The last entry says what must have come before it, so a file that was cut or changed is noticed.
An import reads the file twice: first to check all of it, then to store it. It writes the first
commit last: until then the store holds no registry, and an import that broke off can be repeated.
"""

import hashlib
import io
import re
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

import msgspec

from registry.errors import (
    AlreadyExists,
    BadRequest,
    BrokenChain,
    Conflict,
    DigestMismatch,
    OutcomeUnknown,
    Outdated,
    RegistryMissing,
    TooLarge,
)
from registry.log import remains
from registry.log.commits import CommitLog, catch_up, commit_key, decode, follow
from registry.maintain.private_file import replacing
from registry.model.catalog import Catalog
from registry.model.collection import blobs_in_use
from registry.publish.incoming import incoming
from registry.store import ObjectStore
from registry.store.blobs import Blobs, blob_key

Progress = Callable[[str, int, int], None]
_LOG = re.compile(r"log/([0-9]{20})\.json")
_BLOB = re.compile(r"blobs/sha256/[0-9a-f]{2}/([0-9a-f]{64})")
FORMAT = 2
"""Of the file. Format 1 had no trailer."""
TRAILER = "lorary-export.json"
MAX_COMMIT = 1 << 30
"""Bytes of a commit in an export; it is read into memory. The log's own bound is lower, but older
logs have larger commits."""
MAX_TRAILER = 64 << 10
MAX_HEADER = 4 << 10
"""Bytes of an entry's extended header, which is read into memory."""
WRITE_TRIES = 4


class Trailer(msgspec.Struct, frozen=True, kw_only=True):
    """What an export states about itself, in its last entry."""

    format: int
    registry: str
    commits: int
    head: str
    """SHA-256 of the last commit."""
    blobs: int
    bytes: int
    """Of all entries' contents."""
    entries: str
    """SHA-256 over a line for each entry, in order: its name, a space, its content's SHA-256."""


class _Listing:
    """Counts and hashes the entries of an export, as `Trailer` lists them."""

    def __init__(self) -> None:
        self.blobs = self.bytes = 0
        self._hashing = hashlib.sha256()

    def add(self, name: str, size: int, sha256: str) -> None:
        self.blobs += bool(_BLOB.fullmatch(name))
        self.bytes += size
        self._hashing.update(f"{name} {sha256}\n".encode())

    def trailer(self, catalog: Catalog) -> Trailer:
        return Trailer(
            format=FORMAT,
            registry=catalog.registry,
            commits=catalog.sequence,
            head=catalog.head or "",
            blobs=self.blobs,
            bytes=self.bytes,
            entries=self._hashing.hexdigest(),
        )


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Tell nobody."""


def export(store: ObjectStore, path: Path, progress: Progress = no_progress) -> Catalog:
    """Write the registry in `store` to the tar file `path`, which its owner alone may read; every
    blob is verified on the way.

    Raises `RegistryMissing`, `DigestMismatch` for a damaged blob, `BrokenChain`, `Outdated`, and
    `BadRequest` if the file cannot be written.
    """
    catalog = catch_up(CommitLog(store), Catalog())
    if catalog.sequence == 0:
        raise RegistryMissing(f"{store.url} holds no registry. Nothing was exported.")
    _require_understood(catalog)
    needed = sorted(blobs_in_use(catalog))
    listing, last = _Listing(), ""
    with (
        replacing(path) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for done, digest in enumerate(needed, start=1):
            size = store.head(blob_key(digest)).size
            pieces = Blobs(store).stream(digest, size)
            archive.addfile(_entry(blob_key(digest), size), _Reader(pieces))
            next(pieces, None)  # tarfile reads nothing of an empty one, so it is verified here
            listing.add(blob_key(digest), size, digest)
            progress("blobs", done, len(needed))
        for sequence in range(1, catalog.sequence + 1):
            data = store.get(commit_key(sequence))
            last = hashlib.sha256(data).hexdigest()
            archive.addfile(_entry(commit_key(sequence), len(data)), io.BytesIO(data))
            listing.add(commit_key(sequence), len(data), last)
            progress("commits", sequence, catalog.sequence)
        if last != catalog.head:
            raise BrokenChain("The log was changed during the export. Verify the registry.")
        data = msgspec.json.encode(listing.trailer(catalog))
        archive.addfile(_entry(TRAILER, len(data)), io.BytesIO(data))
    return catalog


@dataclass(slots=True)
class Contents:
    """What a checked export holds."""

    catalog: Catalog = field(default_factory=Catalog)
    commits: list[bytes] = field(default_factory=list)
    """SHA-256 of each commit, in order."""
    blobs: set[str] = field(default_factory=set)
    trailer: Trailer | None = None
    """None for an export of format 1, which may have been cut without a trace."""


def import_(
    store: ObjectStore,
    path: Path,
    progress: Progress = no_progress,
    *,
    without_trailer: bool = False,
) -> Contents:
    """Fill an empty `store` from the tar file `path`, which may be hostile: nothing but blobs of
    their digest, and an unbroken chain of commits, is taken, and nothing before all of it was read.

    without_trailer: accept an export of format 1, which cannot show that it is complete.
    No more is read or written than the file has bytes; sparse entries are refused. Repeating an
    import that broke off is safe. Raises `Conflict` if the store holds a registry, `BadRequest`,
    `DigestMismatch`, `BrokenChain`, `Outdated`, `TooLarge`.
    """
    if CommitLog(store).read(1) is not None:
        raise Conflict(f"{store.url} holds a registry already. Import into an empty store.")
    found = examine(path, progress, without_trailer=without_trailer)
    _make_room(store, found)
    remains.mark(store)
    first = _fill(store, path, found, progress)
    try:
        store.put(commit_key(1), first, "create")
    except (AlreadyExists, OutcomeUnknown):
        if store.get(commit_key(1)) != first:
            raise
    store.delete(remains.MARKER)
    return found


def examine(
    path: Path, progress: Progress = no_progress, *, without_trailer: bool = False
) -> Contents:
    """Check a whole export without storing anything; raises as `import_`."""
    found, listing = Contents(), _Listing()
    for count, (name, size, content) in enumerate(_entries(path), start=1):
        progress("checked", count, 0)
        if found.trailer is not None:
            raise BadRequest(f"{name[:100]!r} follows the export's end. Export the registry again.")
        if name == TRAILER:
            found.trailer = _trailer(content, size)
            if found.trailer != listing.trailer(found.catalog):
                raise BadRequest(
                    f"{path} is not complete or was changed: it should hold "
                    f"{found.trailer.commits} commits and {found.trailer.blobs} files. "
                    "Export the registry again."
                )
        elif blob := _BLOB.fullmatch(name):
            listing.add(name, size, _checked_blob(content, blob[1]))
            found.blobs.add(blob[1])
        elif _LOG.fullmatch(name):
            if size > MAX_COMMIT:
                raise TooLarge(f"{name} has {size} bytes, too many for a commit.")
            data = content.read()
            catalog = found.catalog
            found.catalog = follow(catalog, decode(data, catalog.sequence + 1))
            found.commits.append(hashlib.sha256(data).digest())
            listing.add(name, size, found.commits[-1].hex())
        else:
            raise BadRequest(f"{name[:100]!r} does not belong in an export.")
    if found.catalog.sequence == 0:
        raise BadRequest(f"{path} holds no log. Export the registry again.")
    _require_understood(found.catalog)
    if missing := blobs_in_use(found.catalog) - found.blobs:
        raise BadRequest(f"The export lacks {len(missing)} blob(s). Export the registry again.")
    if found.trailer is None and not without_trailer:
        raise BadRequest(
            f"{path} has no trailer: it was cut, or an earlier Lorary made it, and whether it is "
            f"complete cannot be known. It holds {found.catalog.sequence} commits, the last of "
            f"{found.catalog.time}. If that is all: lorary import --without-trailer"
        )
    return found


def _require_understood(catalog: Catalog) -> None:
    """Raises `Outdated` for a log with unknown events: they may need blobs that nobody knows."""
    if catalog.passed_over:
        raise Outdated(catalog.passed_over)


class _Listed(tarfile.TarInfo):
    """An entry whose extended headers are small, whatever they say of their size."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if not self.isreg() and self.size > MAX_HEADER:
            raise tarfile.HeaderError("a header is too long")
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return member


def _entries(path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, size and content of each entry, read once from front to back: none can point
    elsewhere, and none has more bytes than the file."""
    length, seen = path.stat().st_size, set[str]()
    try:
        with tarfile.open(path, "r|", tarinfo=_Listed) as archive:
            for entry in archive:
                regular = entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
                if not regular or entry.issparse() or entry.name in seen:
                    raise BadRequest(f"{entry.name[:100]!r} does not belong in an export.")
                if entry.offset_data + entry.size > length:
                    raise BadRequest(f"{path} is cut off. Export the registry again.")
                content = archive.extractfile(entry)
                assert content is not None, "a regular file has content"  # noqa: S101
                seen.add(entry.name)
                yield entry.name, entry.size, content
                archive.members = []  # type: ignore[attr-defined]  # it would keep every entry
    except (tarfile.TarError, ArithmeticError, LookupError, ValueError, RecursionError) as error:
        # tarfile lets errors of its parsers through, such as for a size that is no number.
        raise BadRequest(f"{path} is no export: {error}. Export the registry again.") from error


def _trailer(content: IO[bytes], size: int) -> Trailer:
    try:
        trailer = msgspec.json.decode(content.read(min(size, MAX_TRAILER)), type=Trailer)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The export's trailer cannot be read: {error}. Export again.") from error
    if trailer.format != FORMAT:
        raise BadRequest(f"The export has format {trailer.format}. Update Lorary.")
    return trailer


def _checked_blob(content: IO[bytes], digest: str) -> str:
    if hashlib.file_digest(content, "sha256").hexdigest() != digest:  # type: ignore[arg-type]
        raise DigestMismatch(f"Blob {digest[:12]} of the export is damaged. Export again.")
    return digest


def _make_room(store: ObjectStore, found: Contents) -> None:
    """Remove what an earlier import left. What it left without a marker, as earlier versions of
    Lorary did, is taken for that only if it is part of this very export."""
    try:
        remains.clear(store)
    except Conflict:
        for info in store.list("log/"):
            if (name := _LOG.fullmatch(info.key)) is None:
                continue
            sequence = int(name[1])
            here = hashlib.sha256(store.get(info.key)).digest()
            if found.commits[sequence - 1 : sequence] != [here]:
                raise


def _fill(store: ObjectStore, path: Path, found: Contents, progress: Progress) -> bytes:
    """Store all that was checked but the first commit, which is returned."""
    lacking, first, number = blobs_in_use(found.catalog), b"", 0
    total = len(found.commits) + len(found.blobs)
    changed = BadRequest(f"{path} was changed while it was read. Import it again.")
    for count, (name, _, content) in enumerate(_entries(path), start=1):
        progress("stored", count, total)
        if blob := _BLOB.fullmatch(name):
            if blob[1] in lacking:
                _take_blob(store, content, blob[1])
                lacking.discard(blob[1])
        elif _LOG.fullmatch(name):
            data = content.read()
            if [hashlib.sha256(data).digest()] != found.commits[number : number + 1]:
                raise changed
            number += 1
            if number == 1:
                first = data
            else:
                _insist(partial(store.put, commit_key(number), data, "overwrite"))
    if lacking or number != len(found.commits):
        raise changed
    return first


def _take_blob(store: ObjectStore, content: IO[bytes], digest: str) -> None:
    with incoming() as taken:
        while piece := content.read(1 << 20):
            taken.add(piece)
        if taken.sha256 != digest:
            raise DigestMismatch(f"Blob {digest[:12]} of the export is damaged. Export again.")
        _insist(lambda: Blobs(store).put_file(taken.path, digest))


def _insist(write: Callable[[], None]) -> None:
    """Overwrite an object with bytes that never differ: safe to repeat, whatever became of it."""
    for attempt in range(WRITE_TRIES):
        try:
            write()
        except OutcomeUnknown:
            if attempt == WRITE_TRIES - 1:
                raise
            time.sleep(0.1 * 2**attempt)
        else:
            return


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
