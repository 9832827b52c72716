"""Where each version is on this replica, and what makes room for the next.

A version is in the bucket, on disk, or held by the engine under its pinned name. `hold` brings it
up for one request and keeps it there until the request has ended. What no request holds is given
back, the least recently used first: names when the engine has too many, files when the disk has.
A name is always given back before its files, since the engine re-reads them when its own memory
was too small.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from adapters.errors import LoraryError
from registry.catalog import Version
from serving.cache import AdapterCache
from serving.engine import Engine
from serving.errors import EngineRefused
from serving.metrics import COLD_LOAD_PHASES, EVICTIONS, TIER_REQUESTS
from serving.turns import Turns

Tier = Literal["engine", "disk", "bucket"]


@dataclass
class Entry:
    """One set of bytes: who holds it, since when nobody, and the names the engine knows it by."""

    holders: int = 0
    used: float = 0.0
    names: set[str] = field(default_factory=set)
    moving: asyncio.Lock = field(default_factory=asyncio.Lock)


class Residency:
    """The tiers of one replica. Use it from one event loop."""

    def __init__(
        self,
        cache: AdapterCache,
        engine: Engine,
        turns: Turns,
        *,
        max_bytes: int,
        max_names: int,
    ) -> None:
        self._cache = cache
        self._engine = engine
        self._turns = turns
        self._max_bytes = max_bytes
        self._max_names = max_names
        self._entries: dict[str, Entry] = {}
        self._trimming: asyncio.Task[None] | None = None
        self._hints: set[asyncio.Task[None]] = set()

    def tier(self, version: Version) -> Tier:
        """Where the version is now."""
        entry = self._entries.get(version.digest)
        if entry is not None and str(version.ref) in entry.names:
            return "engine"
        return "disk" if self._cache.holds(version) else "bucket"

    @property
    def names(self) -> int:
        """How many names the engine holds."""
        return sum(len(entry.names) for entry in self._entries.values())

    @asynccontextmanager
    async def hold(self, version: Version) -> AsyncIterator[Tier]:
        """Have the version ready in the engine, at its turn, and keep it while the context lasts.

        While it waits for its turn its files are brought here. Yields where it was before.
        Raises `ColdLoadFailed`, `TooManyColdLoads`, `EngineRefused`.
        """
        async with self._kept(version) as entry:
            tier = self.tier(version)
            TIER_REQUESTS.labels(tier).inc()
            if tier == "bucket":
                await self._cache.ensure(version)
            async with self._turns.take(str(version.ref)):
                await self._bring(version, entry)
                yield tier

    async def warm(self, version: Version) -> None:
        """Bring the version up for whoever will ask for it; it takes no turn. Raises as `hold`."""
        async with self._kept(version) as entry:
            await self._bring(version, entry)

    def prefetch(self, version: Version) -> None:
        """Bring the version up in the background. That it fails shows when it is asked for."""

        async def bring() -> None:
            with contextlib.suppress(LoraryError):
                await self.warm(version)

        task = asyncio.create_task(bring())
        self._hints.add(task)
        task.add_done_callback(self._hints.discard)

    @asynccontextmanager
    async def _kept(self, version: Version) -> AsyncIterator[Entry]:
        """Nothing of the version is given back while the context lasts."""
        entry = self._entries.setdefault(version.digest, Entry())
        entry.holders += 1
        try:
            yield entry
        finally:
            entry.holders -= 1
            entry.used = time.monotonic()
            self._trim_soon()

    async def _bring(self, version: Version, entry: Entry) -> None:
        if self.tier(version) == "engine":
            return
        # A caller who leaves must not leave the engine with a name that we do not know of.
        bringing = asyncio.ensure_future(self._load(version, entry))
        bringing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(bringing)

    async def _load(self, version: Version, entry: Entry) -> None:
        name = str(version.ref)
        async with entry.moving:
            if name in entry.names:
                return
            path = await self._cache.ensure(version)
            began = time.perf_counter()
            try:
                await self._engine.load(name, path)
            except EngineRefused:
                self._cache.doubt(version)
                raise
            COLD_LOAD_PHASES.labels("engine").observe(time.perf_counter() - began)
            entry.names.add(name)

    def _trim_soon(self) -> None:
        full = self._cache.bytes > self._max_bytes or self.names > self._max_names
        if full and (self._trimming is None or self._trimming.done()):
            self._trimming = asyncio.create_task(self._trim())

    async def _trim(self) -> None:
        """Give back until both bounds hold, or everything that is left is held."""
        tried = set[str]()
        while True:
            files = self._cache.bytes > self._max_bytes
            if not files and self.names <= self._max_names:
                return
            idle = [
                (entry.used, digest)
                for digest, entry in self._entries.items()
                if entry.holders == 0 and digest not in tried and (files or entry.names)
            ]
            left_over = self._cache.unused(self._entries.keys()) if files else None
            if left_over is not None:
                self._entries[left_over] = Entry()
                await self._give_back(left_over, files=True)
            elif idle:
                _, digest = min(idle)
                tried.add(digest)
                await self._give_back(digest, files=files)
            else:
                return

    async def _give_back(self, digest: str, *, files: bool) -> None:
        entry = self._entries[digest]
        async with entry.moving:
            if entry.holders:
                return
            for name in sorted(entry.names):
                await self._engine.unload(name)
                EVICTIONS.labels("engine").inc()
            entry.names.clear()
            if files:
                await self._cache.discard(digest)
                EVICTIONS.labels("disk").inc()
        if entry.holders == 0:
            del self._entries[digest]
