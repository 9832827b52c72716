"""Sending files: in parts, several at once, each part to wherever the registry says.

A part is known by its digest, so whatever arrived before a connection broke or a process was killed
is not sent again: repeating the push asks what is still missing. At most the parts that were under
way, one for each connection, are sent twice: parts are small, so that the usual four connections
together repeat no more than one part of S3's own multipart uploads (8 MiB).
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from registry.client.connection import Connection, check, check_bucket
from registry.client.progress import Counter, Progress
from registry.errors import (
    BeingCollected,
    Conflict,
    ContentMissing,
    OutcomeUnknown,
    StoreUnavailable,
)

PART = 2 << 20
"""Bytes of a part."""
ATTEMPTS = 6
"""How often what is missing is asked for and sent, before giving up."""
_PIECE = 256 << 10


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a file and the SHA-256 of its bytes."""

    start: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Described:
    """A local file: its name in the adapter, its bytes' digest, its parts in order."""

    name: str
    path: Path
    size: int
    sha256: str
    parts: tuple[Part, ...]

    @property
    def listed(self) -> dict[str, Any]:
        """As a version lists it."""
        return {"path": self.name, "size": self.size, "sha256": self.sha256}

    @property
    def wanted(self) -> dict[str, Any]:
        """As the registry wants to know it before an upload."""
        parts = [{"sha256": part.sha256, "size": part.size} for part in self.parts]
        return {"sha256": self.sha256, "size": self.size, "parts": parts}


def describe(name: str, path: Path) -> Described:
    """Hash a file and its parts in one reading."""
    whole, parts, start = hashlib.sha256(), list[Part](), 0
    with path.open("rb") as file:
        while True:
            part, size = hashlib.sha256(), 0
            while size < PART and (piece := file.read(min(_PIECE, PART - size))):
                part.update(piece)
                whole.update(piece)
                size += len(piece)
            if not size and parts:
                break
            parts.append(Part(start, size, part.hexdigest()))
            start += size
            if size < PART:
                break
    return Described(name, path, start, whole.hexdigest(), tuple(parts))


def upload(
    connection: Connection,
    files: Sequence[Described],
    progress: Progress,
    *,
    parallel: int,
) -> None:
    """Send what the registry lacks of `files`.

    Raises `StoreUnavailable` when parts keep failing; what did arrive need not be sent again.
    """
    by_digest = {file.sha256: file for file in files}
    failure: Exception | None = None
    for attempt in range(ATTEMPTS):
        if failure is not None:
            time.sleep(min(8.0, 0.5 * 2**attempt))
        failure = None
        body = {"files": [file.wanted for file in by_digest.values()]}
        try:
            plan = connection.call("POST", "/uploads", json=body)["uploads"]
        except (BeingCollected, StoreUnavailable, OutcomeUnknown) as error:
            failure = error
            continue
        if not plan:
            return
        for entry in plan:
            file = by_digest[entry["sha256"]]
            failure = _send(connection, file, entry["puts"], progress, parallel) or failure
    raise StoreUnavailable(
        f"The upload keeps failing ({failure}). Repeat the push: it goes on where it stopped."
    )


def publish(
    connection: Connection,
    files: Sequence[Described],
    place: str,
    body: dict[str, Any],
    progress: Progress,
    *,
    parallel: int,
) -> dict[str, Any]:
    """Send what the registry lacks of `files`, then post `body`, which lists them, to `place`.

    Returns what is published. Raises what the registry refuses, and as `upload`.
    """
    for attempt in range(ATTEMPTS):
        upload(connection, files, progress, parallel=parallel)
        try:
            published: dict[str, Any] = connection.call("POST", place, json=body, timeout=600)
        except (ContentMissing, BeingCollected):
            # Garbage was collected between the two: what went is sent again.
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(0.5 * 2**attempt)
        else:
            return published
    raise AssertionError("the last attempt returned or raised")


def _send(
    connection: Connection,
    file: Described,
    puts: Sequence[dict[str, Any]],
    progress: Progress,
    parallel: int,
) -> Exception | None:
    """Send one file's missing parts and let them be joined; what went wrong, if anything did."""
    parts = {part.sha256: part for part in file.parts}
    missing = sum(parts[put["sha256"]].size for put in puts)
    counter = Counter(file.name, file.size, progress, done=file.size - missing)

    def send(put: dict[str, Any]) -> Exception | None:
        try:
            _put(connection, file.path, parts[put["sha256"]], put, counter)
        except (httpx.TransportError, StoreUnavailable, OutcomeUnknown) as error:
            return error  # sending the same content again is safe
        return None

    with ThreadPoolExecutor(parallel) as pool:
        failures = [error for error in pool.map(send, puts) if error is not None]
    if failures:
        return failures[0]
    if len(file.parts) > 1:
        body = {"parts": [part.sha256 for part in file.parts]}
        try:
            connection.call("POST", f"/uploads/{file.sha256}/assembly", json=body, timeout=600)
        except (Conflict, StoreUnavailable, OutcomeUnknown) as error:
            return error
    return None


def _put(
    connection: Connection, path: Path, part: Part, put: dict[str, Any], counter: Counter
) -> None:
    """One part, streamed from the disk."""
    own = put["url"].startswith("/")
    client = connection.http if own else connection.store
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        with path.open("rb") as file:
            file.seek(part.start)
            while sent < part.size and (piece := file.read(min(_PIECE, part.size - sent))):
                yield piece
                sent += len(piece)
                counter.add(len(piece))

    headers = {"Content-Length": str(part.size), **put["headers"]}
    try:
        reply = client.put(put["url"], content=pieces(), headers=headers)
        if own:
            check(reply)
        else:
            check_bucket(reply)
    except BaseException:
        counter.add(-sent)
        raise
