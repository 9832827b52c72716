"""Adapters on this replica's disk, by digest, each verified before vLLM may read it.

A version is downloaded once, however many requests ask for it together; a few versions at a time;
and one that just failed is not tried again for a moment. When something is deleted is decided in
`serving.residency`, for vLLM reads a path again after its own memory dropped the adapter.
"""

import asyncio
import contextlib
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Collection
from pathlib import Path

from adapters.admission import CONFIG, WEIGHTS
from adapters.errors import LoraryError
from registry.blobs import Blobs
from registry.catalog import Version
from registry.events import File
from serving.errors import ColdLoadFailed, TooManyColdLoads
from serving.metrics import COLD_LOAD_PHASES, COLD_LOADS

NEEDED = (CONFIG, WEIGHTS)
"""What vLLM reads of an adapter; nothing else of it is brought here."""

RETRY_SECONDS = 2.0
STRAY = 3600.0
"""Seconds after which an unfinished download is nobody's any more."""


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
    ) -> None:
        self.folder = folder
        self._blobs = blobs
        self._verified: set[str] = set()
        self._sizes = _on_disk(folder)
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, tuple[float, LoraryError]] = {}
        self._turn = asyncio.Semaphore(at_once)
        self._waiting = waiting
        self._retry_seconds = retry_seconds

    def path(self, version: Version) -> Path:
        """Where the version lies once it is here."""
        return self.folder / version.digest

    def holds(self, version: Version) -> bool:
        """Whether the version is here and was verified by this process."""
        return version.digest in self._verified

    @property
    def bytes(self) -> int:
        """Bytes of all adapters that lie here, those of earlier processes among them."""
        return sum(self._sizes.values())

    def __len__(self) -> int:
        """How many adapters lie here."""
        return len(self._sizes)

    def unused(self, known: Collection[str]) -> str | None:
        """An adapter of an earlier process that nobody has asked for since, the oldest first."""
        return next((digest for digest in self._sizes if digest not in known), None)

    def doubt(self, version: Version) -> None:
        """Hash the version's files again before they are next used: they may be gone or damaged."""
        self._verified.discard(version.digest)

    async def discard(self, digest: str) -> None:
        """Delete an adapter that nobody reads."""
        self._verified.discard(digest)
        self._sizes.pop(digest, None)
        await asyncio.to_thread(_remove, self.folder / digest)

    async def ensure(self, version: Version) -> Path:
        """Bring the version here, verified, and return where it lies.

        Raises `ColdLoadFailed` or `TooManyColdLoads`. A caller that is cancelled cancels nothing
        for the others.
        """
        digest = version.digest
        if digest not in self._verified:
            load = self._loads.get(digest)
            if load is None:
                self._refuse(version)
                load = asyncio.create_task(self._load(version))
                self._loads[digest] = load
                load.add_done_callback(lambda _: self._loads.pop(digest, None))
            await asyncio.shield(load)
        return self.path(version)

    def _refuse(self, version: Version) -> None:
        failed = self._failed.get(version.digest)
        if failed is not None and time.monotonic() < failed[0]:
            raise failed[1]
        if len(self._loads) >= self._waiting:
            raise TooManyColdLoads(
                f"{len(self._loads)} adapters are being loaded already. Retry in a second."
            )

    async def _load(self, version: Version) -> None:
        async with self._turn:
            began = time.perf_counter()
            try:
                await asyncio.to_thread(self._bring, version)
            except (LoraryError, OSError) as error:
                reason = error.message if isinstance(error, LoraryError) else str(error)
                failure = ColdLoadFailed(
                    f"{version.ref} cannot be loaded now: {reason} Retry in a few seconds."
                )
                self._failed[version.digest] = (time.monotonic() + self._retry_seconds, failure)
                raise failure from error
            self._failed.pop(version.digest, None)
            self._verified.add(version.digest)
            self._sizes[version.digest] = sum(f.size for f in version.files if f.path in NEEDED)
            COLD_LOADS.observe(time.perf_counter() - began)

    def _bring(self, version: Version) -> None:
        """In a thread: verify what is here, or download it into place, whole or not at all."""
        path = self.path(version)
        files = [file for file in version.files if file.path in NEEDED]
        began = time.perf_counter()
        if all(_is_sound(path / file.path, file) for file in files):
            COLD_LOAD_PHASES.labels("verify").observe(time.perf_counter() - began)
            return
        began = time.perf_counter()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".load-") as temporary:
            made = Path(temporary, "adapter")
            made.mkdir()
            for file in files:
                self._blobs.fetch(file.sha256, file.size, made / file.path)
            COLD_LOAD_PHASES.labels("download").observe(time.perf_counter() - began)
            if path.exists():
                path.rename(Path(temporary, "damaged"))
            try:
                made.rename(path)
                os.utime(path)
            except OSError:  # another process on this disk was quicker
                if not all(_is_sound(path / file.path, file) for file in files):
                    raise
                shutil.rmtree(made)


def _on_disk(folder: Path) -> dict[str, int]:
    """Digests and sizes of what earlier processes left in `folder`, the oldest first."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if len(path.name) == 64 and path.is_dir():
                size = sum(file.stat().st_size for file in path.iterdir())
                found.append((path.stat().st_mtime, path.name, size))
            elif path.name.startswith(".load-") and path.stat().st_mtime < time.time() - STRAY:
                shutil.rmtree(path, ignore_errors=True)
    return {name: size for _, name, size in sorted(found)}


def _remove(path: Path) -> None:
    """Gone from its name at once, then from the disk: what is half deleted is never read."""
    gone = path.with_name(f".load-{path.name[:16]}-{uuid.uuid4().hex[:8]}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(gone)
        shutil.rmtree(gone)


def _is_sound(path: Path, file: File) -> bool:
    """Whether the file on disk is, byte for byte, what the catalog lists."""
    try:
        if path.stat().st_size != file.size:
            return False
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
    except OSError:
        return False
