"""Requests enter the engine in groups, so that one step computes many prompts.

On a GPU a step that computes new prompts takes every running answer longer than a step that only
decodes, and most of that time does not depend on how many prompts there are: 52 ms against 7 to
21 ms on an H200 (docs/explanation/serving-performance.md). When answers end at different times,
requests come one by one, and each delays all others.

Here requests wait until together they have waited for half as long as their step delays the
requests that run. This is the rule for delayed acknowledgments, whose cost is at most twice that
of the best schedule. No request waits longer than `patience`, and none waits if no other runs.

It is off unless `LORARY_BATCHING_SECONDS` is set. A simulation says that it gains up to twice the
answers where they differ in length; the one time it ran on a GPU, on one adapter and answers of one
length, it cost a twentieth.

Source: D. R. Dooly, S. A. Goldman and S. D. Scott, "TCP Dynamic Acknowledgment Delay: Theory and
Practice", STOC 1998.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from serving.telemetry.metrics import BATCHING_WAIT

STEP_SHARE = 0.1
"""What a step counts for each request that it delays, as a share of the longest wait: half of its
delay if the longest wait is five. `python -m benchmarks.adapters_at_scale` chose both."""


class RequestBatcher:
    """The requests that run in the engine and those about to. Use it from one event loop."""

    def __init__(self, patience: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """patience: the longest wait of a request in seconds; 0 turns batching off."""
        self._patience = patience
        self._clock = clock
        self._running = 0
        self._waiting: dict[asyncio.Future[None], float] = {}
        """When each request came that waits."""
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Run one request while the context lasts, and start it together with others."""
        came = self._clock()
        if self._patience and self._running:
            await self._wait(came)
        else:
            self._running += 1
        BATCHING_WAIT.observe(self._clock() - came)
        try:
            yield
        finally:
            self._leave()

    async def _wait(self, came: float) -> None:
        """Return when the request counts as running."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = came
        self._release_when_due()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                self._waiting.pop(waiter, None)
            else:  # it was released at the moment at which its caller left
                self._leave()
            raise

    def _leave(self) -> None:
        self._running -= 1
        self._release_when_due()

    def _release_when_due(self) -> None:
        """Release all that wait if they have waited enough; otherwise come back then."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting:
            return
        now, came = self._clock(), self._waiting.values()
        delay = STEP_SHARE * self._patience * self._running
        due = min((delay + sum(came)) / len(came), min(came) + self._patience)
        if now < due:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(due - now, self._release_when_due)
            return
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
                self._running += 1
        self._waiting.clear()
