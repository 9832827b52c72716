"""Where each version is on this replica, and what makes room for the next.

A version is in the bucket, on disk, or held by the engine under its pinned name. `hold` brings it
up for one request and keeps it there until the request has ended. What no request holds is
evicted, the least popular first: names when the engine's memory is full, files when the disk is.

The engine holds no more names than its memory has adapters. Otherwise it would drop some by itself
and read their files again in the middle of its work, where a file that is gone or damaged by then
ends the whole engine. So it reads a file only when it is asked to, right after it was verified.

Only requests make a version popular. A version that is warmed takes a free place, or that of an
adapter which is no more popular than the version that it replaces.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from adapters.errors import LoraryError
from registry.model.catalog import Version
from serving.errors import DiskFull, NothingFree
from serving.telemetry.metrics import COLD_LOAD_PHASES, COLD_LOADS, EVICTIONS, TIER_REQUESTS
from serving.tiers.cache import AdapterCache
from serving.tiers.engine import Engine
from serving.tiers.entries import Entry, NoneToEvict
from serving.tiers.popularity import NEVER, Ranking
from serving.tiers.ranks import Ranks
from serving.tiers.trial import Trials
from serving.tiers.waiting import Waiting

JUST_NOW_SECONDS = 1.0
"""Files that were verified so little ago are not read again before the engine reads them."""

Tier = Literal["engine", "disk", "bucket"]


class Residency:
    """The tiers of one replica. Use it from one event loop."""

    def __init__(
        self,
        cache: AdapterCache,
        engine: Engine,
        ranks: Ranks,
        trials: Trials,
        *,
        max_bytes: int,
        max_names: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """max_names: how many adapters the engine's memory holds."""
        self._cache = cache
        self._popularity = cache.popularity
        self._loaded = Ranking(self._popularity)
        self._engine = engine
        self._ranks = ranks
        self.trials = trials
        """What is known of versions by trying them."""
        self._clock = clock
        self._max_bytes = max_bytes
        self._max_names = max_names
        self._entries: dict[str, Entry] = {}
        self._coming = 0
        self._going = 0
        self._queue = asyncio.Lock()
        self._released = asyncio.Event()
        self._trimming: asyncio.Task[None] | None = None
        self._trying: set[asyncio.Task[None]] = set()
        self._waiting = Waiting()

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

    @property
    def waiting(self) -> int:
        """How many adapters wait for one of the engine's slots."""
        return self._ranks.waiting

    @property
    def resident(self) -> list[str]:
        """Pinned names that the engine holds, the most popular first."""
        ranked = sorted(self._entries, key=self._popularity.of, reverse=True)
        return [name for digest in ranked for name in self._entries[digest].names]

    @property
    def awaited(self) -> list[str]:
        """Pinned names that requests wait for and the engine does not hold."""
        held = set(self.resident)
        return [name for name in self._waiting.names if name not in held]

    @property
    def places(self) -> int:
        """How many adapters the engine's memory holds at most."""
        return self._max_names

    @asynccontextmanager
    async def hold(self, version: Version, rank: int | None = None) -> AsyncIterator[Tier]:
        """Have the version ready in the engine, at its turn, and keep it while the context lasts.

        Its files are brought here before its turn; its name has a place in the engine only then, so
        that those who wait keep nothing from those whose turn it is. Then the request enters the
        engine together with others. Yields where the version was before.
        rank: which of the engine's ranks will answer; None if vLLM chooses.
        Raises `ColdLoadFailed`, `DiskFull`, `TooManyColdLoads`, `EngineRefused`, `AdapterFaulty`.
        """
        self.trials.check(version)
        tier = self.tier(version)
        TIER_REQUESTS.labels(tier).inc()
        self._popularity.note(version.digest)
        fetched = -math.inf
        with contextlib.ExitStack() as waiting:
            waiting.enter_context(self._waiting.request(str(version.ref)))
            if tier == "bucket":
                async with self._kept(version):
                    await self._fetch(version)
                    fetched = self._clock()
            async with self._ranks.take(str(version.ref), rank), self._kept(version) as entry:
                await self._bring(version, entry, fetched)
                await self._tried(version, rank or 0)
                waiting.close()
                async with self._ranks.enter(rank):
                    yield tier

    async def warm(self, version: Version, *, replaces: Version | None = None) -> bool:
        """Bring the version up for whoever will ask for it; it takes no turn.

        replaces: the version whose requests it will get, and whose popularity it inherits. It is
        tried in the background, as soon as it has a turn: a trial needs one of the engine's slots.
        False if everything that the engine holds is more popular: then only its files are here.
        Raises as `hold`.
        """
        score = NEVER if replaces is None else self._popularity.of(replaces.digest)
        async with self._kept(version) as entry:
            try:
                await self._bring(version, entry, score=score)
            except NoneToEvict:
                return False
            self._popularity.inherit(version.digest, score)
        if not self.trials.is_sound(version):
            self._in_background(self._try(version))
        return True

    async def prefetch(self, version: Version) -> None:
        """Bring the version up for a caller that is about to ask for it. Raises as `hold`."""
        async with self._kept(version) as entry:
            self._popularity.expect(version.digest)
            await self._bring(version, entry)

    @property
    def contended(self) -> bool:
        """Whether a caller's request waits for a slot, or for a place in the engine's memory."""
        return self._ranks.waiting > 0 or self._queue.locked()

    @asynccontextmanager
    async def borrow(self, version: Version, rank: int | None = None) -> AsyncIterator[None]:
        """Have the version ready in the engine, and keep it while the context lasts, for work that
        nobody waits for: it takes only what is free. rank: as for `hold`. Raises `NothingFree`, and
        as `hold`."""
        name = str(version.ref)
        if not self._ranks.has_room(name, rank):
            raise NothingFree("busy")
        async with self._kept(version) as entry:
            try:
                await self._bring(version, entry, score=None)
            except NoneToEvict:
                raise NothingFree("cold") from None
            if not self._ranks.has_room(name, rank):
                raise NothingFree("busy")
            async with self._ranks.take(name, rank):
                await self._tried(version, rank or 0)
                yield

    async def _try(self, version: Version) -> None:
        name = str(version.ref)
        rank = self._ranks.home(name)
        async with self._ranks.take(name, rank):
            if self.tier(version) == "engine":
                await self._tried(version, rank)

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
        score: float | None = math.inf,
    ) -> None:
        """A caller who leaves must not leave the engine with a name that we do not know of: the
        engine's own load is finished, whatever comes before it is not."""
        self.trials.check(version)
        if self.tier(version) == "engine":
            return
        self._take(version.digest)
        in_engine = asyncio.Event()
        bringing = asyncio.ensure_future(self._load(version, entry, fetched, score, in_engine))

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

    async def _tried(self, version: Version, rank: int) -> None:
        """A trial goes on though its callers leave, so it keeps the version itself. Its prompt
        enters the engine together with requests, for it delays those that run as much."""

        def keep() -> Callable[[], None]:
            entry = self._take(version.digest)
            return lambda: self._let_go(version.digest, entry)

        if self.trials.is_sound(version):
            await self.trials.attend(version, keep, rank)
            return
        async with self._ranks.enter(rank):
            await self.trials.attend(version, keep, rank)

    async def _load(
        self,
        version: Version,
        entry: Entry,
        fetched: float,
        score: float | None,
        in_engine: asyncio.Event,
    ) -> None:
        name = str(version.ref)
        async with entry.moving:
            if name in entry.names:
                return
            with COLD_LOADS.time():
                path = self._cache.path(version)
                just_now = self._clock() - fetched < JUST_NOW_SECONDS
                if not (just_now and self._cache.holds(version)):
                    await self._fetch(version)
                async with self._place(score):
                    in_engine.set()
                    with COLD_LOAD_PHASES.labels("engine").time():
                        await self._engine.load(name, path)
                    # It is loaded, and no request can hold it before it is noted here.
                    entry.names[name] = version
                    self._loaded.add(version.digest)

    async def _fetch(self, version: Version) -> Path:
        """The version on disk and verified; a full disk gives back what nobody holds first."""
        while True:
            try:
                return await self._cache.ensure(version)
            except DiskFull as full:
                if self._cache.reclaimable(self._held()) < full.lacking:
                    raise
                if not await self._drop_least_popular():
                    raise

    @asynccontextmanager
    async def _place(self, score: float | None) -> AsyncIterator[None]:
        """A place in the engine's memory, first come first served: the least popular idle adapter
        is evicted, if its score is `score` at most; without one, none is. If there is none, waits;
        or raises `NoneToEvict` if `score` is not infinity."""
        async with self._queue:
            while len(self._engine) + self._coming >= self._max_names:
                self._released.clear()
                if self._going:  # a place is about to be free
                    await self._released.wait()
                    continue
                least = self._loaded.least(lambda digest: self._entries[digest].idle)
                if least is not None and score is not None and self._popularity.of(least) <= score:
                    await asyncio.shield(self._give_back(least, files=False))
                elif score is None or score < math.inf:
                    raise NoneToEvict
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
        while self._cache.bytes > self._max_bytes and await self._drop_least_popular():
            pass

    def _held(self) -> set[str]:
        return {digest for digest, entry in self._entries.items() if not entry.idle}

    async def _drop_least_popular(self) -> bool:
        """Delete the least popular adapter from the disk; False if everything is held."""
        digest = self._cache.least_popular(self._held())
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
                if not entry.names:
                    self._loaded.discard(digest)
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
