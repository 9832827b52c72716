"""Where each version is on this replica, and what makes room for the next.

A version is in the bucket, on disk, or held by the engine under its pinned name. `hold` brings it
up for one request and keeps it there until the request has ended. What no request holds is given
back, the least recently used first: names when the engine's memory is full, files when the disk is.

The engine holds no more names than its memory has adapters. Otherwise it would drop some by itself
and read their files again in the middle of its work, where a file that is gone or damaged by then
ends the whole engine. So it reads a file only when it is told to, right after it was verified.

Only requests count as use. A version that is warmed takes a free place, or that of an adapter which
was used no later than the version that it replaces; it never displaces a busier one.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from adapters.errors import LoraryError
from registry.model.catalog import Version
from serving.errors import DiskFull
from serving.telemetry.metrics import COLD_LOAD_PHASES, COLD_LOADS, EVICTIONS, TIER_REQUESTS
from serving.tiers.cache import AdapterCache
from serving.tiers.engine import Engine
from serving.tiers.scheduler import SlotScheduler
from serving.tiers.trial import Trials

JUST_NOW_SECONDS = 1.0
"""Files that were verified so little ago are not read again before the engine reads them."""

Tier = Literal["engine", "disk", "bucket"]


@dataclass
class Entry:
    """One set of bytes in use: who holds it, since when nobody, its versions in the engine."""

    holders: int = 0
    used: float = 0.0
    """When a request last held it; 0 if none ever did."""
    brought: float = 0.0
    """When the engine last loaded it."""
    names: dict[str, Version] = field(default_factory=dict)
    moving: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def idle(self) -> bool:
        """Whether nobody holds it or is moving it."""
        return not self.holders and not self.moving.locked()


class AllBusier(Exception):
    """The engine is full of adapters that are used more than the one to be warmed."""


class Residency:
    """The tiers of one replica. Use it from one event loop."""

    def __init__(
        self,
        cache: AdapterCache,
        engine: Engine,
        turns: SlotScheduler,
        trials: Trials,
        *,
        max_bytes: int,
        max_names: int,
    ) -> None:
        """max_names: how many adapters the engine's memory holds."""
        self._cache = cache
        self._engine = engine
        self._turns = turns
        self.trials = trials
        """What is known of versions by trying them."""
        self._max_bytes = max_bytes
        self._max_names = max_names
        self._entries: dict[str, Entry] = {}
        self._coming = 0
        self._going = 0
        self._queue = asyncio.Lock()
        self._released = asyncio.Event()
        self._trimming: asyncio.Task[None] | None = None
        self._trying: set[asyncio.Task[None]] = set()

    def tier(self, version: Version) -> Tier:
        """Where the version is now."""
        entry = self._entries.get(version.digest)
        if entry is not None and str(version.ref) in entry.names:
            return "engine"
        return "disk" if self._cache.holds(version) else "bucket"

    @property
    def names(self) -> int:
        """How many adapters the engine holds."""
        return len(self._engine)

    @asynccontextmanager
    async def hold(self, version: Version) -> AsyncIterator[Tier]:
        """Have the version ready in the engine, at its turn, and keep it while the context lasts.

        Its files are brought here before its turn; its name has a place in the engine only then, so
        that those who wait keep nothing from those whose turn it is. Yields where it was before.
        Raises `ColdLoadFailed`, `DiskFull`, `TooManyColdLoads`, `EngineRefused`, `AdapterFaulty`.
        """
        self.trials.check(version)
        tier = self.tier(version)
        TIER_REQUESTS.labels(tier).inc()
        self._cache.touch(version)
        fetched = -math.inf
        if tier == "bucket":
            async with self._kept(version):
                await self._fetch(version)
                fetched = time.monotonic()
        async with self._turns.take(str(version.ref)), self._kept(version) as entry:
            entry.used = time.monotonic()
            await self._bring(version, entry, fetched)
            self._cache.touch(version)
            await self._tried(version)
            try:
                yield tier
            finally:
                entry.used = time.monotonic()

    async def warm(self, version: Version, *, replaces: Version | None = None) -> bool:
        """Bring the version up for whoever will ask for it; it takes no turn.

        replaces: the version whose requests it will get, and as recently used as which it counts;
        without one it counts as never used. It is tried in the background, as soon as it has a
        turn: a trial needs one of the engine's slots. False if everything that the engine holds is
        busier: then only its files are here. Raises as `hold`.
        """
        before = self._entries.get(replaces.digest) if replaces is not None else None
        rank = before.used if before is not None else 0.0
        async with self._kept(version) as entry:
            try:
                await self._bring(version, entry, rank=rank)
            except AllBusier:
                return False
            finally:
                if not rank:
                    self._cache.demote(version)
            entry.used = max(entry.used, rank)
        if not self.trials.is_sound(version):
            self._in_background(self._try(version))
        return True

    async def prefetch(self, version: Version) -> None:
        """Bring the version up for a caller that is about to ask for it. Raises as `hold`."""
        async with self._kept(version) as entry:
            entry.used = time.monotonic()
            await self._bring(version, entry)

    async def _try(self, version: Version) -> None:
        async with self._turns.take(str(version.ref)):
            if self.tier(version) == "engine":
                await self._tried(version)

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        async def quietly() -> None:
            with contextlib.suppress(LoraryError):
                await work

        task = asyncio.create_task(quietly())
        self._trying.add(task)
        task.add_done_callback(self._trying.discard)

    async def reconcile(self) -> None:
        """Compare what is held here with the engine's own list, and mend what differs.

        An adapter that the engine lost would be read, unverified, in the middle of a step. One that
        a request holds is verified and loaded again; any other is forgotten. Raises as `hold`.
        """
        missing = await self._engine.reconcile()
        for digest, entry in tuple(self._entries.items()):
            lost = [version for name, version in entry.names.items() if name in missing]
            if lost and not entry.holders:
                await self._give_back(digest, files=False)
            for version in lost if entry.holders else ():
                async with self._kept(version):
                    await self._fetch(version)
                    await self._engine.reload(str(version.ref))
        if not any(entry.moving.locked() for entry in self._entries.values()):
            known = {name for entry in self._entries.values() for name in entry.names}
            for name in self._engine.names - known:  # a removal that had failed
                await self._engine.unload(name)

    @asynccontextmanager
    async def _kept(self, version: Version) -> AsyncIterator[Entry]:
        """Nothing of the version is given back while the context lasts."""
        entry = self._take(version.digest)
        try:
            yield entry
        finally:
            self._let_go(version.digest, entry)

    def _take(self, digest: str) -> Entry:
        entry = self._entries.setdefault(digest, Entry())
        entry.holders += 1
        return entry

    def _let_go(self, digest: str, entry: Entry) -> None:
        entry.holders -= 1
        if entry.idle:
            self._released.set()
            if not entry.names:
                del self._entries[digest]
        self._trim_soon()

    async def _bring(
        self,
        version: Version,
        entry: Entry,
        fetched: float = -math.inf,
        rank: float = math.inf,
    ) -> None:
        """A caller who leaves must not leave the engine with a name that we do not know of: the
        engine's own load is finished, whatever comes before it is not."""
        self.trials.check(version)
        if self.tier(version) == "engine":
            return
        self._take(version.digest)
        in_engine = asyncio.Event()
        bringing = asyncio.ensure_future(self._load(version, entry, fetched, rank, in_engine))

        def done(task: "asyncio.Future[None]") -> None:
            self._let_go(version.digest, entry)
            if not task.cancelled():
                task.exception()  # its caller may have left

        bringing.add_done_callback(done)
        try:
            await asyncio.shield(bringing)
        except asyncio.CancelledError:
            if not in_engine.is_set():
                bringing.cancel()
            raise

    async def _tried(self, version: Version) -> None:
        """A trial goes on though its callers leave, so it keeps the version itself."""

        def keep() -> Callable[[], None]:
            entry = self._take(version.digest)
            return lambda: self._let_go(version.digest, entry)

        await self.trials.attend(version, keep)

    async def _load(
        self,
        version: Version,
        entry: Entry,
        fetched: float,
        rank: float,
        in_engine: asyncio.Event,
    ) -> None:
        name = str(version.ref)
        async with entry.moving:
            if name in entry.names:
                return
            with COLD_LOADS.time():
                path = self._cache.path(version)
                just_now = time.monotonic() - fetched < JUST_NOW_SECONDS
                if not (just_now and self._cache.holds(version)):
                    await self._fetch(version)
                async with self._place(rank):
                    in_engine.set()
                    with COLD_LOAD_PHASES.labels("engine").time():
                        await self._engine.load(name, path)
                    # It is loaded, and no request can hold it before it is noted here.
                    entry.names[name] = version
                    entry.brought = time.monotonic()

    async def _fetch(self, version: Version) -> Path:
        """The version on disk and verified; a full disk gives back what nobody holds first."""
        while True:
            try:
                return await self._cache.ensure(version)
            except DiskFull as full:
                if self._cache.reclaimable(self._held()) < full.lacking:
                    raise
                if not await self._drop_oldest():
                    raise

    @asynccontextmanager
    async def _place(self, rank: float) -> AsyncIterator[None]:
        """A place in the engine's memory, first come first served: the name idle longest goes, if
        it was used no later than `rank`. Raises `AllBusier` if there is none and `rank` is finite;
        else waits."""
        async with self._queue:
            while len(self._engine) + self._coming >= self._max_names:
                self._released.clear()
                idle = [
                    (entry.used, entry.brought, digest)
                    for digest, entry in self._entries.items()
                    if entry.idle and entry.names and entry.used <= rank
                ]
                if self._going:  # a place is about to be free
                    await self._released.wait()
                elif idle:
                    await asyncio.shield(self._give_back(min(idle)[2], files=False))
                elif rank < math.inf:
                    raise AllBusier
                else:
                    await self._released.wait()
            self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1
            self._released.set()

    def _trim_soon(self) -> None:
        full = self._cache.bytes > self._max_bytes
        if full and (self._trimming is None or self._trimming.done()):
            self._trimming = asyncio.create_task(self._trim())

    async def _trim(self) -> None:
        """Give back until the disk's bound holds, or everything that is left is held."""
        while self._cache.bytes > self._max_bytes and await self._drop_oldest():
            pass

    def _held(self) -> set[str]:
        return {digest for digest, entry in self._entries.items() if not entry.idle}

    async def _drop_oldest(self) -> bool:
        """Delete what was used least recently; False if everything is held."""
        digest = self._cache.oldest(self._held())
        if digest is None:
            return False
        # What was begun is finished, whoever leaves: nothing half given back may stay.
        await asyncio.shield(self._give_back(digest, files=True))
        return True

    async def _give_back(self, digest: str, *, files: bool) -> None:
        """Names first, each forgotten here before the engine removes it; then the files."""
        entry = self._entries.setdefault(digest, Entry())
        async with entry.moving:
            if self._entries.get(digest) is not entry:
                return  # given back by somebody else while we waited
            while entry.names and not entry.holders:
                name, _ = entry.names.popitem()
                self._going += 1
                try:
                    await self._engine.unload(name)
                finally:
                    self._going -= 1
                    self._released.set()
                EVICTIONS.labels("engine").inc()
            if files and not entry.holders and await self._cache.discard(digest):
                EVICTIONS.labels("disk").inc()
        self._released.set()
        if entry.idle and not entry.names:
            self._entries.pop(digest, None)


async def reconcile_regularly(residency: Residency, seconds: float) -> None:
    """Compare with the engine's own list every so often, until cancelled."""
    while True:
        with contextlib.suppress(LoraryError):  # counted by kind, and tried again next time
            await residency.reconcile()
        await asyncio.sleep(seconds)
