"""File contents, addressed by SHA-256, written once and shared by every version that has them."""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from registry.errors import DigestMismatch, ObjectNotFound, TooLarge
from registry.model.catalog import File
from registry.store.base import ObjectStore

PARTS = "uploads/"
"""Prefix of what was uploaded but belongs to no blob yet."""
DAMAGED = "damaged/"
"""Prefix of the marks of blobs whose content was found to be damaged."""
_KEY = re.compile(r"\w+/sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})")
LOOKS = 8
"""How many parts are looked for at once."""


def blob_key(sha256: str) -> str:
    """Where the content with that digest lies; raises `ValueError` for anything but a digest."""
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise ValueError(f"{sha256[:80]!r} is not a SHA-256")
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def part_key(sha256: str) -> str:
    """Where a part of a large upload waits until its file is assembled."""
    return blob_key(sha256).replace("blobs/", f"{PARTS}", 1)


def _damaged_key(sha256: str) -> str:
    return blob_key(sha256).replace("blobs/", DAMAGED, 1)


def digest_of(key: str) -> str | None:
    """The digest that the key of a blob, a part or a mark ends in; None for any other object, which
    somebody else put there."""
    found = _KEY.fullmatch(key)
    return found and found[2]


def content_digest(files: Sequence[File]) -> str:
    """A version's digest: SHA-256 over path, size and digest of its files, sorted by path."""
    listed = [(file.path, file.size, file.sha256) for file in sorted(files, key=lambda f: f.path)]
    return hashlib.sha256(msgspec.json.encode(listed)).hexdigest()


class Blobs:
    """The content-addressed part of a store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def missing(self, digests: Iterable[str]) -> set[str]:
        """Those of `digests` that the store does not hold, or holds damaged."""
        damaged = self._damaged()
        return {digest for digest in set(digests) if not self._holds(digest, damaged.get(digest))}

    def put_file(self, path: Path, sha256: str) -> None:
        """Store a file whose SHA-256 the caller has computed."""
        self._store.put_file(blob_key(sha256), path, sha256=sha256)

    def put_bytes(self, data: bytes) -> str:
        """Store `data` and return its digest."""
        digest = hashlib.sha256(data).hexdigest()
        self._store.put(blob_key(digest), data, "overwrite")
        return digest

    def missing_parts(self, digests: Iterable[str]) -> set[str]:
        """Those of `digests` for which no part waits."""
        wanted = list(set(digests))
        with ThreadPoolExecutor(LOOKS) as pool:
            there = pool.map(self._exists, map(part_key, wanted))
            return {digest for digest, exists in zip(wanted, there, strict=True) if not exists}

    def assemble(self, sha256: str, parts: Sequence[str], most: int) -> None:
        """Make the blob of waiting parts, in order, if together they have that digest.

        most: bytes. Safe to repeat. Raises `ObjectNotFound` for a part that does not wait,
        `TooLarge`, and `DigestMismatch`. The bytes are hashed as the store holds them.
        """
        if not self.missing([sha256]):
            return
        self._store.put_stream(blob_key(sha256), self._joined(sha256, parts, most))
        for part in set(parts):
            self._store.delete(part_key(part))

    def _joined(self, sha256: str, parts: Sequence[str], most: int) -> Iterator[bytes]:
        """The waiting parts' bytes as the store holds them, an error at their end if they are not
        those of the digest, and before it if they are more than `most`: one part may be named
        many times."""
        hashing, length = hashlib.sha256(), 0
        for part in parts:
            for piece in self._store.stream(part_key(part)):
                length += len(piece)
                if length > most:
                    raise TooLarge(f"The parts are above the limit of {most} bytes. Upload less.")
                hashing.update(piece)
                yield piece
        if hashing.hexdigest() != sha256:
            raise DigestMismatch(f"The parts are not those of {sha256[:12]}. Upload them again.")

    def discard(self, sha256: str) -> None:
        """Remove a blob that the log has condemned: only a collection may."""
        self._store.delete(blob_key(sha256))

    def mark_damaged(self, sha256: str) -> None:
        """Let a blob count as missing until it is uploaded again.

        It is not removed: meanwhile somebody may have uploaded it again, and published it.
        """
        self._store.put(_damaged_key(sha256), b"", "overwrite")

    def unmark_replaced(self) -> None:
        """Remove the marks of blobs that were uploaded again, or are gone."""
        for digest, since in self._damaged().items():
            if self._holds(digest, since) or not self._exists(blob_key(digest)):
                self._store.delete(_damaged_key(digest))

    def _damaged(self) -> dict[str, float]:
        """When each blob was found to be damaged; seldom any."""
        marks = ((digest_of(info.key), info.modified) for info in self._store.list(DAMAGED))
        return {digest: modified for digest, modified in marks if digest is not None}

    def discard_part(self, sha256: str) -> None:
        """Remove a waiting part."""
        self._store.delete(part_key(sha256))

    def get(self, sha256: str) -> bytes:
        """A small blob's content, verified; raises `ObjectNotFound`, `DigestMismatch`."""
        return b"".join(self.stream(sha256))

    def stream(self, sha256: str, size: int | None = None) -> Iterator[bytes]:
        """The content in pieces, the last of them once all are verified: whoever got as many bytes
        as there should be got the right ones.

        Raises `DigestMismatch` in place of the last unless the bytes are those of the digest (and
        as many as `size`, which also bounds what is read).
        """
        hashing, length, last = hashlib.sha256(), 0, b""
        for piece in self._store.stream(blob_key(sha256)):
            length += len(piece)
            if size is not None and length > size:
                break
            hashing.update(piece)
            if last:
                yield last
            last = piece
        if hashing.hexdigest() != sha256 or (size is not None and length != size):
            raise DigestMismatch(
                f"Blob {sha256[:12]} in {self._store.url} is damaged. "
                "Push the version again from its source, or restore the blob from a backup."
            )
        if last:
            yield last

    def verify(self, sha256: str, size: int | None = None) -> None:
        """Read the whole blob and raise as `stream` does."""
        for _ in self.stream(sha256, size):
            pass

    def is_damaged(self, sha256: str) -> bool:
        """Whether the stored bytes, read anew, are not those of the digest."""
        try:
            self.verify(sha256)
        except DigestMismatch:
            return True
        return False

    def fetch(self, sha256: str, size: int, destination: Path) -> None:
        """Write the verified content to `destination`, which appears whole or not at all.

        It is not flushed to the disk: whoever keeps it across a loss of power verifies it anew.
        """
        descriptor, name = tempfile.mkstemp(dir=destination.parent, prefix=".fetch-")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for piece in self.stream(sha256, size):
                    file.write(piece)
            temporary.replace(destination)
        finally:
            temporary.unlink(missing_ok=True)

    def _holds(self, digest: str, damaged_at: float | None) -> bool:
        """Whether the blob is there and was written since it was found damaged, if it was."""
        try:
            info = self._store.head(blob_key(digest))
        except ObjectNotFound:
            return False
        return damaged_at is None or info.modified >= damaged_at

    def _exists(self, key: str) -> bool:
        try:
            self._store.head(key)
        except ObjectNotFound:
            return False
        return True
