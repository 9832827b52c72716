"""Requests enter the engine in groups, so that one step computes many prompts.

On a GPU a step that computes new prompts takes every running answer longer than a step that only
decodes, and most of that time does not depend on how many prompts there are: 52 ms against 7 to
21 ms on an H200 ([serving-performance.md](../../docs/serving-performance.md)). When answers end at
different times, requests come one by one, and each delays all others.

Here requests wait until together they have waited for half as long as their step delays the
requests that run. This is the rule for delayed acknowledgments, whose cost is at most twice that
of the best schedule. No request waits longer than `patience`, and none waits if no other runs. By
how much such a step is longer depends on the device and on how vLLM runs the model, so it is
measured when the engine starts (`measure_delay`).

Source: D. R. Dooly, S. A. Goldman and S. D. Scott, "TCP Dynamic Acknowledgment Delay: Theory and
Practice", STOC 1998.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from statistics import median
from typing import Any, Protocol

from serving.telemetry.metrics import BATCHING_WAIT

DELAYS = 5
"""The longest wait by default, in delays by a step with a new prompt."""
MOST_SECONDS = 0.5
"""Bound of that default."""
STEP_SHARE = 0.1
"""What a step counts for each request that it delays, as a share of the longest wait: half of its
delay by default. `python -m benchmarks.adapters_at_scale` with other delays chose both."""
PROMPT_TOKENS = 16
"""So few that the time of a prompt's step does not depend on them."""
TOKENS = 9
ROUNDS = 3
FIRST_ID = 100
"""Ordinary tokens in any vocabulary begin here."""


class EngineClient(Protocol):
    """What is used of vLLM's `EngineClient`."""

    def generate(
        self, prompt: Any, sampling_params: Any, request_id: str
    ) -> AsyncGenerator[Any, None]:
        """Run a request."""


async def measure_delay(
    client: EngineClient, sampling: Any, *, clock: Callable[[], float] = time.monotonic
) -> float:
    """By how many seconds a step with a new prompt is longer than one that only decodes.

    The engine must be idle. sampling: vLLM's `SamplingParams` for `TOKENS` tokens, no fewer. Each
    round has another prompt, or the prefix cache would answer.
    """
    firsts, others = [], []
    for number in range(ROUNDS):
        first_id = FIRST_ID + number * PROMPT_TOKENS
        prompt = {"prompt_token_ids": list(range(first_id, first_id + PROMPT_TOKENS))}
        times = [clock()]
        async for _ in client.generate(prompt, sampling, f"lorary-delay-{number}"):
            times.append(clock())
        first, *gaps = [after - before for before, after in pairwise(times)]
        firsts.append(first)
        others += gaps
    return max(0.0, min(firsts) - median(others)) if others else 0.0


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
