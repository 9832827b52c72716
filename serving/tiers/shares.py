"""Shares of the engine's batch among keys, so that none fills it.

vLLM puts as many sequences into a batch as it has places (`max_num_seqs`) and never takes one back:
whoever fills them makes everybody else wait until an answer ends. Here a key's sequences go to the
engine only while it then holds no more places than are left free: one key alone gets half of them,
two get a third each, and somebody new always finds some. The rule is that of dynamic thresholds
for a shared buffer (Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998).

What a key may not send yet waits here in the order of its arrival. A key that has nothing in the
engine waits for at most `patience`; the engine's own queue then decides.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from registry.errors import BadRequest
from serving.telemetry.metrics import SHARE_WAIT

PATIENCE_SECONDS = 60.0


@dataclass(slots=True, eq=False)
class Waiting:
    """One request that waits: whose it is, for how many places, and until it has them."""

    key: str
    count: int
    let_in: asyncio.Event = field(default_factory=asyncio.Event)


class Shares:
    """The places of one engine's batch. Use it from one event loop."""

    def __init__(self, places: int, *, patience: float = PATIENCE_SECONDS) -> None:
        self._places = places
        self._patience = patience
        self._held: Counter[str] = Counter()
        self._queue: dict[Waiting, None] = {}

    @property
    def most(self) -> int:
        """Places that one request may ask for."""
        return max(1, self._places // 2)

    @asynccontextmanager
    async def take(self, key: str, count: int) -> AsyncIterator[int]:
        """Hold `count` places for `key` while the context lasts, as soon as it may have them.

        Yields how many the key then holds: the request's priority in the engine, where the lowest
        goes first. Raises `BadRequest` for more than one request may ever have.
        """
        if count > self.most:
            raise BadRequest(
                f"The request asks for {count} answers (prompts times `n`); this server takes "
                f"{self.most} in one request at most. Ask for fewer."
            )
        with SHARE_WAIT.time():
            if self._may_enter(key, count):
                self._held[key] += count
            else:
                await self._wait(Waiting(key, count))
        try:
            yield self._held[key]
        finally:
            self._give_back(key, count)

    def _may_enter(self, key: str, count: int) -> bool:
        taken = self._held.total()
        left = self._places - taken - count
        return taken == 0 or self._held[key] + count <= left

    async def _wait(self, waiting: Waiting) -> None:
        """Return when the places are held."""
        self._queue[waiting] = None
        try:
            while not waiting.let_in.is_set():
                try:
                    async with asyncio.timeout(self._patience):
                        await waiting.let_in.wait()
                except TimeoutError:
                    if not self._held[waiting.key]:
                        self._let(waiting)
        except asyncio.CancelledError:
            if waiting.let_in.is_set():
                self._give_back(waiting.key, waiting.count)
            raise
        finally:
            self._queue.pop(waiting, None)

    def _let(self, waiting: Waiting) -> None:
        self._held[waiting.key] += waiting.count
        waiting.let_in.set()
        del self._queue[waiting]

    def _give_back(self, key: str, count: int) -> None:
        self._held[key] -= count
        if not self._held[key]:
            del self._held[key]
        for waiting in list(self._queue):
            if self._may_enter(waiting.key, waiting.count):
                self._let(waiting)
