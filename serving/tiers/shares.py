"""Shares of the engine's batch among keys, so that none fills it.

vLLM puts as many sequences into a batch as it has places (`max_num_seqs`) and never takes one back:
a key that fills them makes all others wait until an answer ends. Here a request goes to the engine
only while its key would then hold no more than so many times the places that were free before, and
an eighth of the places stays free for newcomers. On a CPU, where each sequence makes every step
longer, it is once as many: one key alone gets half of the places, two get a third each. On a GPU,
where it hardly does, it is eight times as many: one key alone gets seven eighths. The rule is that
of dynamic thresholds for a shared buffer (Choudhury and Hahne, IEEE/ACM Transactions on Networking
6(2), 1998). The first sequence of a key needs no more than one free place.

What may not go yet waits in the line of its key, first come, first served. For its own key's
answers it waits as long as they take; for those of others at most `patience`, and then it is
refused with 429.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from registry.errors import BadRequest
from serving.errors import LimitReached
from serving.telemetry.metrics import SHARE_WAIT

BATCHES = "\0batches"
"""Who holds the places of all lines of batches; no key has such an id."""
PATIENCE_SECONDS = 60.0
RESERVE = 8
"""One in so many places stays free for keys that hold none."""
TIMES_FREE_ON_GPU = 8
"""Of the places that are free, so many times as many may one key hold on a GPU. With 1, 256 callers
with one key and as many places got 0.84 of bare vLLM's answers from an H200: half of them waited
([serving-performance.md](../../docs/explanation/serving-performance.md))."""


@dataclass(slots=True, eq=False)
class Waiting:
    """One request that waits for so many places."""

    count: int
    let_in: asyncio.Event = field(default_factory=asyncio.Event)


class Shares:
    """The places of one engine's batches. Use it from one event loop."""

    def __init__(
        self,
        places: int,
        *,
        most: int | None = None,
        patience: float = PATIENCE_SECONDS,
        times_free: int = 1,
    ) -> None:
        """places: of all data-parallel ranks together. most: places that one request may ask for;
        by default half of them. times_free: how many times the places that are free one key may
        hold."""
        self._places = places
        self._times_free = times_free
        self.most = max(1, places // 2 if most is None else most)
        """Places that one request may ask for."""
        self._patience = patience
        self._bounds: dict[str, int] = {}
        self._held: Counter[str] = Counter()
        self._lines: dict[str, deque[Waiting]] = {}

    @property
    def places(self) -> int:
        """Sequences in the batches of all ranks."""
        return self._places

    @property
    def free(self) -> int:
        """Places that no caller's request holds."""
        return self._places - self._held.total()

    def bound(self, key: str, most: int) -> None:
        """Let `key` hold at most `most` places, or one request that asks for more."""
        self._bounds[key] = most

    @asynccontextmanager
    async def take(self, key: str, count: int) -> AsyncIterator[int]:
        """Hold `count` places for `key` while the context lasts, as soon as it may have them.

        Yields how many the key then holds: the request's priority in the engine, where the lowest
        goes first. Raises `BadRequest` for more than one request may ever have, and `LimitReached`
        if others hold too many for too long.
        """
        if count > self.most:
            raise BadRequest(
                f"The request asks for {count} answers (prompts times `n`); this server takes "
                f"{self.most} in one request at most. Ask for fewer."
            )
        with SHARE_WAIT.time():
            if key not in self._lines and self._may_enter(key, count):
                self._held[key] += count
            else:
                await self._wait(key, Waiting(count))
        try:
            yield self._held[key]
        finally:
            self._give_back(key, count)

    def _may_enter(self, key: str, count: int) -> bool:
        mine = self._held[key]
        if mine and mine + count > self._bounds.get(key, self._places):
            return False
        free = self._places - self._held.total()
        if mine == 0 and count == 1:
            return free >= 1
        return mine + count <= self._times_free * free and free - count >= self._places // RESERVE

    async def _wait(self, key: str, waiting: Waiting) -> None:
        """Return when the places are held."""
        self._lines.setdefault(key, deque()).append(waiting)
        try:
            while not waiting.let_in.is_set():
                others_alone = self._held[key] == 0
                try:
                    async with asyncio.timeout(self._patience):
                        await waiting.let_in.wait()
                except TimeoutError:
                    if others_alone and not self._held[key]:
                        raise LimitReached(
                            f"The engine had no room for {waiting.count} more answers for "
                            f"{self._patience:.0f} s. Ask for fewer at once, or come again.",
                            10.0,
                        ) from None
        except BaseException:
            if waiting.let_in.is_set():  # at the very moment it left
                self._give_back(key, waiting.count)
            else:
                self._leave(key, waiting)
            raise

    def _leave(self, key: str, waiting: Waiting) -> None:
        line = self._lines[key]
        line.remove(waiting)
        if not line:
            del self._lines[key]
        self._let_in()

    def _give_back(self, key: str, count: int) -> None:
        self._held[key] -= count
        if not self._held[key]:
            del self._held[key]
        self._let_in()

    def _let_in(self) -> None:
        """Let the heads of the lines in, those of the keys that hold least first."""
        for key in sorted(self._lines, key=lambda key: self._held[key]):
            line = self._lines[key]
            while line and self._may_enter(key, line[0].count):
                waiting = line.popleft()
                self._held[key] += waiting.count
                waiting.let_in.set()
            if not line:
                del self._lines[key]
