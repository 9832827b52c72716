"""Files that callers upload and that batches write, in the store below one deployment's prefix.

A file belongs to an owner: a person, a service or a key. Every key of the store begins with a
digest of the owner, so a caller can only address files of its own. A file's content is stored
before the record that makes it visible.

    files/OWNER/ID.data     the content
    files/OWNER/ID.json     the record
"""

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from registry.errors import ObjectNotFound
from registry.model.catalog import Catalog, Key, person
from registry.store.base import ObjectInfo, ObjectStore
from serving.errors import FileNotStored, QuotaExceeded

DAY = 86_400
ORPHAN_SECONDS = DAY
"""Age from which content without a record, of an upload that broke off, is removed."""
_ID = re.compile(r"file-[0-9a-f]{12,40}")


def owner_of(catalog: Catalog, key: Key) -> str:
    """Whom the files of `key` belong to, as a part of a store's key: its person or service, whose
    other keys see them, too; else the key alone."""
    if key.person:
        owner = f"person {person(catalog.keys, key.id)}"
    elif key.service:
        owner = f"service {person(catalog.keys, key.id)}"
    else:
        owner = f"key {key.id}"
    return hashlib.sha256(owner.encode()).hexdigest()[:32]


def new_id(prefix: str, now: float) -> str:
    """A random id. Ids sort by time: 12 hexadecimal digits of milliseconds come first."""
    return f"{prefix}{int(now * 1000):012x}{secrets.token_hex(6)}"


class File(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a file beside its content."""

    id: str
    filename: str
    bytes: int
    created_at: int
    """Seconds since 1970, as all times here."""
    expires_at: int
    purpose: str

    def shown(self) -> dict[str, Any]:
        """As OpenAI's API shows it."""
        return {"object": "file", "status": "processed", **msgspec.to_builtins(self)}


class Files:
    """The files of one deployment. Every call reads or writes the store: use it in a thread."""

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        *,
        most_bytes: int,
        most_files: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """prefix: ends with a slash. most_bytes, most_files: what one owner may keep."""
        self._store, self._prefix = store, f"{prefix}files/"
        self._most_bytes, self._most_files = most_bytes, most_files
        self._clock = clock

    def check_quota(self, owner: str, size: int = 0) -> None:
        """Raises `QuotaExceeded` if the owner may not store `size` bytes more.

        Uploads at the same moment do not see each other, so an owner may exceed the quota by those.
        """
        sizes = [info.size for info in self._of(owner) if info.key.endswith(".data")]
        if len(sizes) >= self._most_files:
            raise QuotaExceeded(
                f"There are {len(sizes)} files; {self._most_files} may be kept at most. Delete one."
            )
        if sum(sizes) + size > self._most_bytes:
            raise QuotaExceeded(
                f"The files would have more than {self._most_bytes:,} bytes together. Delete some."
            )

    def add(
        self,
        owner: str,
        pieces: Iterable[bytes],
        *,
        filename: str,
        purpose: str,
        keep_seconds: int,
        file_id: str = "",
    ) -> File:
        """Store a file. file_id: makes the call repeatable; the last one counts."""
        now, size = self._clock(), 0
        file_id = file_id or new_id("file-", now)

        def counted() -> Iterator[bytes]:
            nonlocal size
            for piece in pieces:
                size += len(piece)
                yield piece

        self._store.put_stream(self._key(owner, file_id, "data"), counted())
        file = File(
            id=file_id,
            filename=filename,
            bytes=size,
            created_at=int(now),
            expires_at=int(now) + keep_seconds,
            purpose=purpose,
        )
        self._store.put(self._key(owner, file_id, "json"), msgspec.json.encode(file), "overwrite")
        return file

    def get(self, owner: str, file_id: str) -> File:
        """The record; raises `FileNotStored` for other owners' files and expired ones, too."""
        if _ID.fullmatch(file_id):
            try:
                data = self._store.get(self._key(owner, file_id, "json"))
            except ObjectNotFound:
                pass
            else:
                file = msgspec.json.decode(data, type=File)
                if file.expires_at > self._clock():
                    return file
        raise FileNotStored(file_id)

    def content(self, owner: str, file_id: str) -> Iterator[bytes]:
        """The content in pieces; raises `FileNotStored` at the first."""
        self.get(owner, file_id)
        try:
            yield from self._store.stream(self._key(owner, file_id, "data"))
        except ObjectNotFound as error:
            raise FileNotStored(file_id) from error

    def page(
        self, owner: str, *, after: str, limit: int, newest_first: bool = True, purpose: str = ""
    ) -> tuple[list[File], bool]:
        """At most `limit` files that follow `after` in the order of their making, and whether
        there are more."""
        infos = (info.key for info in self._of(owner) if info.key.endswith(".json"))
        ids = sorted((_id_in(key) for key in infos), reverse=newest_first)
        found: list[File] = []
        for file_id in ids:
            if after and (file_id >= after if newest_first else file_id <= after):
                continue
            try:
                file = self.get(owner, file_id)
            except FileNotStored:
                continue
            if purpose and file.purpose != purpose:
                continue
            if len(found) == limit:
                return found, True
            found.append(file)
        return found, False

    def delete(self, owner: str, file_id: str) -> None:
        """Remove a file; raises `FileNotStored`."""
        self.get(owner, file_id)
        self._remove(owner, file_id)

    def sweep(self) -> int:
        """Remove what has expired and what uploads left that broke off; how many."""
        now, removed = self._clock(), 0
        infos = list(self._store.list(self._prefix))
        recorded = {info.key[:-5] for info in infos if info.key.endswith(".json")}
        for info in infos:
            owner, _, name = info.key.removeprefix(self._prefix).partition("/")
            stem = info.key[:-5]
            if info.key.endswith(".data"):
                gone = stem not in recorded and now - info.modified > ORPHAN_SECONDS
            else:
                gone = self._expired(info.key, now)
            if gone:
                self._remove(owner, name[:-5])
                removed += 1
        return removed

    def _expired(self, key: str, now: float) -> bool:
        try:
            return msgspec.json.decode(self._store.get(key), type=File).expires_at <= now
        except ObjectNotFound:  # another replica was faster
            return False

    def _remove(self, owner: str, file_id: str) -> None:
        for kind in ("json", "data"):
            self._store.delete(self._key(owner, file_id, kind))

    def _of(self, owner: str) -> Iterator[ObjectInfo]:
        return self._store.list(f"{self._prefix}{owner}/")

    def _key(self, owner: str, file_id: str, kind: str) -> str:
        return f"{self._prefix}{owner}/{file_id}.{kind}"


def _id_in(key: str) -> str:
    return key.rpartition("/")[2].rpartition(".")[0]
