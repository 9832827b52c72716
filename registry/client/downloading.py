"""Fetching files: ranges, several at once, kept across a broken pull, verified before they appear.

While a file is on its way it lies beside its destination as `.DIGEST.part`, with the ranges that
have arrived listed in `.DIGEST.ranges`. A repeated pull fetches the others.
"""

import contextlib
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from registry.client.connection import PREFIX, Connection, check, check_bucket
from registry.client.progress import Counter, Progress
from registry.errors import DigestMismatch, StoreUnavailable

RANGE = 8 << 20
"""Bytes that are asked for at once."""
ATTEMPTS = 4


def download(
    connection: Connection,
    source: str,
    file: dict[str, Any],
    destination: Path,
    progress: Progress,
    *,
    parallel: int,
) -> None:
    """Bring one file to `destination`, whole and verified or not at all.

    source: the route, below `/api/v1`, that has it under the query `path`.

    Raises `StoreUnavailable` if the connection keeps breaking, or `DigestMismatch`.
    """
    size, sha256 = file["size"], file["sha256"]
    if destination.exists() and _hash(destination) == sha256:
        progress(file["path"], size, size)
        return
    partial = destination.with_name(f".{sha256[:16]}.part")
    arrived = destination.with_name(f".{sha256[:16]}.ranges")
    starts = set(range(0, size, RANGE)) - _listed(partial, arrived)
    lengths = {start: min(RANGE, size - start) for start in starts}
    counter = Counter(file["path"], size, progress, done=size - sum(lengths.values()))
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.ftruncate(descriptor, size)

        def fetch(start: int) -> None:
            _fetch(connection, source, file["path"], descriptor, start, lengths[start], counter)
            with arrived.open("a") as record:
                record.write(f"{start}\n")

        with ThreadPoolExecutor(parallel) as pool:
            list(pool.map(fetch, sorted(starts)))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sound = _hash(partial) == sha256
    arrived.unlink(missing_ok=True)
    if not sound:
        partial.unlink()
        raise DigestMismatch(f"{file['path']} arrived damaged. Pull it again.")
    partial.replace(destination)


def _listed(partial: Path, arrived: Path) -> set[int]:
    """Where the ranges begin that an earlier pull left here. A torn last line does not count."""
    if not partial.exists():
        arrived.unlink(missing_ok=True)
        return set()
    with contextlib.suppress(OSError):
        lines = arrived.read_text().splitlines(keepends=True)
        return {int(line) for line in lines if line.endswith("\n") and line.strip().isdigit()}
    return set()


def _fetch(
    connection: Connection,
    source: str,
    path: str,
    descriptor: int,
    start: int,
    length: int,
    counter: Counter,
) -> None:
    failure: httpx.TransportError | None = None
    for _ in range(ATTEMPTS):
        done = 0
        headers = {"Range": f"bytes={start}-{start + length - 1}", "Accept-Encoding": "identity"}
        request = connection.http.stream(
            "GET", PREFIX + source, params={"path": path}, headers=headers
        )
        try:
            with request as reply:
                if reply.history:
                    check_bucket(reply)
                check(reply)
                for piece in reply.iter_bytes(256 << 10):
                    if done + len(piece) > length:
                        raise DigestMismatch(f"More of {path} came than was asked for. Retry.")
                    os.pwrite(descriptor, piece, start + done)
                    done += len(piece)
                    counter.add(len(piece))
        except httpx.TransportError as error:
            failure = error
        if done == length:
            return
        counter.add(-done)
    raise StoreUnavailable(
        f"The download of {path} keeps breaking off ({failure}). Repeat the pull: it goes on."
    )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
