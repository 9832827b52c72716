"""Runs batches on one replica, line by line, through the gateway as any other request.

A replica works on one batch at a time, for `SLICE_SECONDS` while other owners' batches wait, and
then on the batch of the owner that was served longest ago. What was answered is written every few
seconds: a replica that is killed loses only what it had not written, and another goes on.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterator

from adapters.errors import LoraryError
from serving.batches.batches import Batches
from serving.batches.claims import BEAT_SECONDS, Claim, Claims
from serving.batches.files import Files
from serving.batches.job import Job
from serving.batches.records import Batch, Ending
from serving.batches.slices import Ask, Slice
from serving.batches.threads import Threads
from serving.errors import BatchNotFound
from serving.telemetry import access_log

SLICE_SECONDS = 30.0
POLL_SECONDS = 5.0
"""Between looks for work, where there was none; made sooner when a batch is created here."""
TICK_SECONDS = 1.0
"""How often a slice is looked at: its time, its owner's cancellation, others who wait."""
WRITE_SECONDS = 10.0
"""How often answers are written at least."""
YIELD_SECONDS = 5.0
"""How long lines may run on while others wait for what they hold; then they are repeated later."""
SWEEP_SECONDS, FIRST_SWEEP_SECONDS = 3_600.0, 300.0
LONELY_SECONDS = 300.0
"""After which a mark of work without a batch is removed."""
MAX_REST_SECONDS = 60.0
"""How long an owner's batches rest at most once its key's limits are reached."""


class Worker:
    """The batches of one replica. Use it from one event loop."""

    def __init__(
        self,
        batches: Batches,
        files: Files,
        ask: Ask,
        *,
        at_once: int,
        line_bytes: int,
        keep_seconds: int,
        refused: Callable[[Batch], str] = lambda _batch: "",
        crowded: Callable[[], bool] = lambda: False,
        closing: Callable[[], bool] = lambda: False,
        changed: asyncio.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """at_once: lines that run together. line_bytes: of one input line. keep_seconds: how long
        an ended batch is remembered. refused: why a batch may not go on, such as a revoked key.
        crowded: whether other requests wait for what lines hold. closing: whether the server
        ends. changed: set when there is something new to do."""
        self._batches, self._files, self._ask = batches, files, ask
        self._at_once, self._line_bytes, self._keep = at_once, line_bytes, keep_seconds
        self._refused, self._crowded, self._closing = refused, crowded, closing
        self._clock = clock
        self._threads = Threads(2, 8)
        self._run = self._threads.run
        self._claims = Claims(batches.store, clock)
        self._token = secrets.token_hex(8)
        self._changed = changed or asyncio.Event()
        self._served: dict[str, float] = {}
        self._resting: dict[str, float] = {}
        self._lonely: dict[str, float] = {}
        self._swept = clock() - SWEEP_SECONDS + FIRST_SWEEP_SECONDS

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            worked = False
            self._changed.clear()
            try:
                worked = await self.step()
                await self._sweep()
            except LoraryError as error:  # the store is away, most likely: look again
                access_log.write("batches_paused", code=error.code)
            except Exception as error:
                access_log.failed("batches", error)
            if not worked:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), POLL_SECONDS)

    async def step(self) -> bool:
        """Work on one batch for a slice; False if there was none to work on."""
        if self._closing() or self._crowded():
            return False
        waiting = await self._run(self._batches.open)
        for owner, batch_id in self._in_turn(waiting):
            try:
                state = await self._run(self._batches.get, owner, batch_id)
            except BatchNotFound:
                await self._remove_if_lonely(owner, batch_id)
                continue
            if state.end is not None:
                await self._run(self._batches.clear, owner, batch_id)
                continue
            claim = await self._run(self._claims.take, self._batches.work(state.batch))
            if claim is None:
                continue
            self._served[owner] = self._clock()
            try:
                await self._work(state.batch, claim)
            finally:
                await self._run(claim.release)
            return True
        return False

    def _in_turn(self, waiting: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """Each owner's batches, the owners that were served longest ago first; those that rest are
        left out."""
        now = self._clock()
        owners, ids = {owner for owner, _ in waiting}, {batch_id for _, batch_id in waiting}
        self._served = {o: at for o, at in self._served.items() if o in owners}
        self._resting = {o: until for o, until in self._resting.items() if until > now}
        self._lonely = {i: at for i, at in self._lonely.items() if i in ids}
        self._claims.forget_all_but(ids)
        ready = (pair for pair in waiting if pair[0] not in self._resting)
        return iter(sorted(ready, key=lambda pair: (self._served.get(pair[0], 0.0), pair[1])))

    async def _remove_if_lonely(self, owner: str, batch_id: str) -> None:
        now = self._clock()
        if now - self._lonely.setdefault(batch_id, now) >= LONELY_SECONDS:
            await self._run(self._batches.clear, owner, batch_id)

    async def _work(self, batch: Batch, claim: Claim) -> None:
        """One slice of a batch that was claimed."""
        job = Job(self._batches, self._files, self._threads, batch, self._token, self._line_bytes)
        if not await self._run(job.open):
            return
        if not job.is_sealed:
            ending = await self._ending(job) or await self._run_lines(job, claim)
            if ending is not None:
                await self._run(job.close, ending, self._refused(batch))
        await self._run(job.finish)

    async def _ending(self, job: Job) -> Ending | None:
        """How the batch ends now; None if it goes on."""
        if job.is_lost:
            return None
        if job.is_complete:
            return "completed"
        if await self._run(self._batches.is_cancelled, job.batch):
            return "cancelled"
        if self._refused(job.batch):
            return "failed"
        return "expired" if time.time() >= job.batch.expires_at else None

    async def _run_lines(self, job: Job, claim: Claim) -> Ending | None:
        """Run lines until the slice is over; how the batch ends, if it ends now."""
        lines = Slice(job, self._ask, self._at_once)
        running = asyncio.create_task(lines.run())
        try:
            await self._watch(job, claim, lines, running)
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
        await job.write()
        if lines.rest:
            until = self._clock() + min(lines.rest, MAX_REST_SECONDS)
            self._resting[job.batch.owner] = until
        return await self._ending(job)

    async def _watch(
        self, job: Job, claim: Claim, lines: Slice, running: asyncio.Task[None]
    ) -> None:
        """Return when the lines that run are to end."""
        began = beaten = written = self._clock()
        crowded_since: float | None = None
        while not running.done():
            await asyncio.wait({running}, timeout=TICK_SECONDS)
            now = self._clock()
            if now - beaten >= BEAT_SECONDS:
                beaten = now
                if not await self._run(claim.beat):
                    return
            if now - written >= WRITE_SECONDS:
                written = now
                await job.write()
            if self._closing():
                lines.stop()
            elif now - began >= SLICE_SECONDS:
                began = now
                if await self._run(self._others_wait, job.batch.owner):
                    lines.stop()
            if not self._crowded():
                crowded_since = None
            elif crowded_since is None:
                crowded_since = now
            elif now - crowded_since >= YIELD_SECONDS:
                return
            if job.is_lost or await self._ending(job) not in (None, "completed"):
                return

    def _others_wait(self, owner: str) -> bool:
        return any(other != owner for other, _ in self._batches.open())

    async def _sweep(self) -> None:
        """Remove what has expired, once an hour."""
        if self._clock() - self._swept < SWEEP_SECONDS:
            return
        self._swept = self._clock()
        files = await self._run(self._files.sweep)
        batches = await self._run(self._batches.sweep, self._keep)
        access_log.write("batches_swept", files=files, batches=batches)
