"""Slots: no more adapters at once than the engine has, and for each one a bounded wait.

vLLM lets a request in if its adapter runs already or a slot is free. An adapter that always has a
request running therefore never gives its slot back, and one that asks in vain waits forever. Here
an adapter that runs may let more of its requests in for as long as its turn lasts, or nobody else
waits; afterwards they queue behind the others, first come, first served. A slot is given on when
the last request of its adapter has ended.

With turns of T seconds and requests of L at most, whoever queues behind n other adapters waits
(n + 1) (T + L) at most: when an adapter has come to the head of the queue, every turn is over after
T, and everything that was let in after another L. Whoever has waited for `patience` is let in all
the same, so that nobody depends on others' reading their answers; the engine's own queue then
decides.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from serving.telemetry.metrics import SLOT_WAIT

PATIENCE_SECONDS = 60.0


@dataclass(slots=True)
class Turn:
    """One slot: since when its adapter has it, and how many of its requests run."""

    began: float
    running: int = 0


class SlotScheduler:
    """The engine's slots, shared by adapters in turn. Use it from one event loop."""

    def __init__(
        self,
        slots: int,
        seconds: float,
        *,
        patience: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """seconds: how long an adapter may let requests in while others wait."""
        self._slots = slots
        self._seconds = seconds
        self._patience = patience
        self._clock = clock
        self._turns: dict[str, Turn] = {}
        self._queue: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many adapters wait for a slot."""
        return len(self._queue)

    def admits(self, adapter: str) -> bool:
        """Whether a request of `adapter` would be let in at once."""
        turn = self._turns.get(adapter)
        if turn is None:
            return len(self._turns) < self._slots and adapter not in self._queue
        return adapter not in self._queue and not self._is_over(turn)

    @asynccontextmanager
    async def take(self, adapter: str) -> AsyncIterator[None]:
        """Run one request of `adapter` while the context lasts, as soon as it is its turn."""
        began = self._clock()
        if not self._enter(adapter):
            await self._wait(adapter)
        SLOT_WAIT.observe(self._clock() - began)
        try:
            yield
        finally:
            self._leave(adapter)

    def _enter(self, adapter: str) -> bool:
        """Let a request in at once, if it is its adapter's turn or a slot is free."""
        if not self.admits(adapter):
            return False
        self._turns.setdefault(adapter, Turn(self._clock())).running += 1
        return True

    async def _wait(self, adapter: str) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._queue.setdefault(adapter, deque()).append(waiter)
        try:
            async with asyncio.timeout(self._patience):
                await waiter
        except TimeoutError:
            if waiter.cancelled():
                self._forget(adapter, waiter)
                self._turns.setdefault(adapter, Turn(self._clock())).running += 1
        except asyncio.CancelledError:
            if waiter.cancelled():
                self._forget(adapter, waiter)
            else:  # it was let in at the very moment it left
                self._leave(adapter)
            raise

    def _is_over(self, turn: Turn) -> bool:
        return bool(self._queue) and self._clock() - turn.began >= self._seconds

    def _leave(self, adapter: str) -> None:
        turn = self._turns[adapter]
        turn.running -= 1
        if turn.running == 0:
            del self._turns[adapter]
        self._let_in()

    def _forget(self, adapter: str, waiter: asyncio.Future[None]) -> None:
        line = self._queue.get(adapter)
        if line is not None and waiter in line:
            line.remove(waiter)
            if not line:
                del self._queue[adapter]
                self._let_in()

    def _let_in(self) -> None:
        """Give slots to the head of the queue for as long as there are any."""
        while self._queue:
            adapter = next(iter(self._queue))
            if adapter not in self._turns and len(self._turns) >= self._slots:
                return
            there = [waiter for waiter in self._queue.pop(adapter) if not waiter.done()]
            if not there:  # all of them have just left
                continue
            turn = self._turns.setdefault(adapter, Turn(0.0))
            turn.began = self._clock()
            turn.running += len(there)
            for waiter in there:
                waiter.set_result(None)
