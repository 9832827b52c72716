"""Adapters on this replica's disk, by digest, each verified right before vLLM reads it.

A version is downloaded once, however many requests ask for it together; a few versions at a time;
and one that just failed is not tried again for a moment. What lies here already is hashed again
each time that the engine is about to read it, without waiting for anybody's download: disks rot.
When something is deleted is decided in `serving.tiers.residency`.
"""

import asyncio
import contextlib
import errno
import functools
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from adapters.admission import CONFIG, WEIGHTS
from adapters.errors import LoraryError
from registry.errors import DigestMismatch
from registry.model.catalog import File, Version
from registry.store.blobs import Blobs
from serving.errors import ColdLoadFailed, DiskFull, TooManyColdLoads
from serving.telemetry.metrics import COLD_LOAD_PHASES, VERIFICATION_FAILURES
from serving.tiers.popularity import Popularity, Ranking

NEEDED = (CONFIG, WEIGHTS)
"""What vLLM reads of an adapter; nothing else of it is brought here."""

RETRY_SECONDS = 2.0
STRAY = 3600.0
"""Seconds after which an unfinished download is abandoned."""
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass
class Load:
    """One version on its way to the disk."""

    task: "asyncio.Task[None]" = field(init=False)
    callers: int = 0
    begun: bool = False
    """Whether its download runs; a thread cannot be cancelled."""


class AdapterCache:
    """A folder of verified adapters. Use it from one event loop."""

    def __init__(
        self,
        folder: Path,
        blobs: Blobs,
        *,
        at_once: int = 2,
        waiting: int = 32,
        retry_seconds: float = RETRY_SECONDS,
        half_life: float = 128.0,
    ) -> None:
        """half_life: requests after which a request for an adapter counts half."""
        self.folder = folder
        self.popularity = Popularity(half_life)
        """How popular each adapter is, here or not."""
        self.bytes = 0
        """Bytes of all adapters that lie here, those of earlier processes among them."""
        self._blobs = blobs
        self._sizes: dict[str, int] = {}
        self._ranking = Ranking(self.popularity)
        for digest, size in _on_disk(folder):
            self._note(digest, size)
        self._loads: dict[str, Load] = {}
        self._failed: dict[str, tuple[float, LoraryError]] = {}
        self._turn = asyncio.Semaphore(at_once)
        self._waiting = waiting
        self._retry_seconds = retry_seconds

    def path(self, version: Version) -> Path:
        """Where the version lies once it is here."""
        return self.folder / version.digest

    def holds(self, version: Version) -> bool:
        """Whether the version lies here, sound or not."""
        return version.digest in self._sizes

    def __len__(self) -> int:
        """How many adapters lie here."""
        return len(self._sizes)

    def least_popular(self, held: Collection[str]) -> str | None:
        """The least popular adapter, but for those `held` and those on the way."""
        return self._ranking.least(lambda digest: digest not in held and digest not in self._loads)

    def reclaimable(self, held: Collection[str]) -> int:
        """Bytes that deleting everything but what is `held` or on the way would give back."""
        kept = {*held, *self._loads}
        return sum(size for digest, size in self._sizes.items() if digest not in kept)

    async def discard(self, digest: str) -> bool:
        """Delete an adapter that nobody reads; False if it is just being verified for somebody.

        It is gone from its name before anything else runs, so whoever verifies it later finds
        nothing and brings it anew. What failed to load may fit now, so it may be retried.
        """
        if digest in self._loads:
            return False
        self._forget(digest)
        gone = _set_aside(self.folder / digest)
        if gone is not None:
            await asyncio.to_thread(shutil.rmtree, gone)
        self._failed.clear()
        return True

    async def ensure(self, version: Version) -> Path:
        """Bring the version here, verify it now, and return where it lies.

        Raises `ColdLoadFailed`, `DiskFull` or `TooManyColdLoads`. A caller that is cancelled
        cancels nothing for the others; when all are, a load that has not begun is given up.
        """
        digest = version.digest
        load = self._loads.get(digest)
        if load is None or load.task.cancelling():
            self._refuse(version)
            load = self._loads[digest] = Load()
            load.task = asyncio.create_task(self._load(version, load))
            load.task.add_done_callback(functools.partial(self._loaded, digest, load))
        load.callers += 1
        try:
            await asyncio.shield(load.task)
        finally:
            load.callers -= 1
            if not load.callers and not load.begun:
                load.task.cancel()
        return self.path(version)

    def _loaded(self, digest: str, load: Load, task: "asyncio.Task[None]") -> None:
        if self._loads.get(digest) is load:
            del self._loads[digest]
        if not task.cancelled():
            task.exception()  # everybody who asked may have left

    def _refuse(self, version: Version) -> None:
        failed = self._failed.get(version.digest)
        if failed is not None and time.monotonic() < failed[0]:
            raise failed[1]
        if len(self._loads) >= self._waiting:
            raise TooManyColdLoads(
                f"{len(self._loads)} adapters are being loaded already. Retry in a second."
            )

    async def _load(self, version: Version, load: Load) -> None:
        files = [file for file in version.files if file.path in NEEDED]
        path = self.path(version)
        try:
            with COLD_LOAD_PHASES.labels("verify").time():
                sound = await asyncio.to_thread(_are_sound, path, files)
            if not sound:
                self._forget(version.digest)
                async with self._turn:
                    load.begun = True
                    with COLD_LOAD_PHASES.labels("download").time():
                        await asyncio.to_thread(self._download, version, files)
        except (LoraryError, OSError) as error:
            if isinstance(error, DigestMismatch):
                VERIFICATION_FAILURES.inc()
            now = time.monotonic()
            failure = _explained(version, error)
            self._failed = {d: f for d, f in self._failed.items() if now < f[0]}
            self._failed[version.digest] = (now + self._retry_seconds, failure)
            raise failure from error
        self._failed.pop(version.digest, None)
        self._note(version.digest, sum(file.size for file in files))

    def _note(self, digest: str, size: int) -> None:
        """It lies here."""
        self.bytes += size - self._sizes.get(digest, 0)
        self._sizes[digest] = size
        self._ranking.add(digest)

    def _forget(self, digest: str) -> None:
        """It does not."""
        self.bytes -= self._sizes.pop(digest, 0)
        self._ranking.discard(digest)

    def _download(self, version: Version, files: list[File]) -> None:
        """In a thread: the files into place, verified, whole or not at all."""
        path = self.path(version)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        damaged = _set_aside(path)
        if damaged is not None:
            shutil.rmtree(damaged)
        lacking = sum(file.size for file in files) - shutil.disk_usage(self.folder).free
        if lacking > 0:
            raise DiskFull(str(version.ref), lacking)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".load-") as temporary:
            made = Path(temporary, "adapter")
            made.mkdir()
            for file in files:
                self._blobs.fetch(file.sha256, file.size, made / file.path)
            try:
                made.rename(path)
                os.utime(path)
            except OSError:  # another process on this disk was quicker
                if not _are_sound(path, files):
                    raise
                shutil.rmtree(made)


def _explained(version: Version, error: LoraryError | OSError) -> ColdLoadFailed:
    """The failure as its callers see it: nothing of this machine's paths or of the store."""
    if isinstance(error, DiskFull):
        return error
    if isinstance(error, OSError) and error.errno in FULL:
        return DiskFull(str(version.ref), sum(f.size for f in version.files if f.path in NEEDED))
    reason = error.message if isinstance(error, LoraryError) else f"{error.strerror}."
    return ColdLoadFailed(
        f"{version.ref} cannot be loaded now. Retry in a few seconds. If it fails again, ask this "
        "server's operator: the server's log says why.",
        cause=reason,
    )


def _on_disk(folder: Path) -> list[tuple[str, int]]:
    """Digests and sizes of what earlier processes left in `folder`, the oldest first."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if len(path.name) == 64 and path.is_dir():
                size = sum(file.stat().st_size for file in path.iterdir())
                found.append((path.stat().st_mtime, path.name, size))
            elif path.name.startswith(".load-") and path.stat().st_mtime < time.time() - STRAY:
                shutil.rmtree(path, ignore_errors=True)
    return [(name, size) for _, name, size in sorted(found)]


def _set_aside(path: Path) -> Path | None:
    """Rename a folder that is to be deleted, so that none is read that is half deleted."""
    gone = path.with_name(f".load-{path.name[:16]}-{uuid.uuid4().hex[:8]}")
    try:
        return path.rename(gone)
    except FileNotFoundError:
        return None


def _are_sound(folder: Path, files: list[File]) -> bool:
    return all(_is_sound(folder / file.path, file) for file in files)


def _is_sound(path: Path, file: File) -> bool:
    """Whether the file on disk is, byte for byte, what the catalog lists."""
    try:
        if path.stat().st_size != file.size:
            return False
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
    except OSError:
        return False
