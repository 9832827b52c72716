"""The engine's data-parallel ranks: which of them answers a request, and when.

With `--data-parallel-size N` vLLM runs the model N times behind one API process, each rank with a
batch, a KV cache and `max_loras` slots of its own. Every adapter is loaded on all ranks
(`serving.tiers.engine`), so each rank can answer every request; the choice decides how many
different adapters share a batch, and how even the load is.

Consistent hashing with bounded loads: each adapter has an order of ranks of its own, and a request
goes to the first rank of that order whose load stays within `SPREAD` times the mean. So an adapter
keeps to one rank while that rank is no busier than the others, and a popular one is answered by as
many ranks as it needs. Ranks where it would wait for a slot come after those where it would not.
Requests for the base model take no slot and go to the least loaded rank.

Source: V. Mirrokni, M. Thorup and M. Zadimoghaddam, "Consistent Hashing with Bounded Loads",
SODA 2018. The orders are those of rendezvous hashing (D. Thaler and C. Ravishankar, 1998).
"""

import functools
import hashlib
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass

from serving.tiers.batching import RequestBatcher
from serving.tiers.scheduler import SlotScheduler

SPREAD = 1.1
"""Load that a rank may have for the sake of its adapters, in units of the mean."""


@dataclass(frozen=True)
class Rank:
    """What decides when requests enter one rank."""

    slots: SlotScheduler
    batcher: RequestBatcher


class Ranks:
    """The load and the slots of each rank. Use it from one event loop."""

    def __init__(self, ranks: Sequence[Rank], places: int) -> None:
        """places: sequences in one rank's batch."""
        self._ranks = ranks
        self._places = places
        self._loads = [0] * len(ranks)

    def __len__(self) -> int:
        """How many ranks there are."""
        return len(self._ranks)

    @property
    def loads(self) -> tuple[int, ...]:
        """Sequences of placed requests, by rank."""
        return tuple(self._loads)

    @property
    def waiting(self) -> int:
        """How many adapters wait for a slot, over all ranks."""
        return sum(rank.slots.waiting for rank in self._ranks)

    def has_room(self, adapter: str, rank: int | None = None) -> bool:
        """Whether a request of `adapter` would be let in at once, and nobody waits for a slot.

        rank: as in `take`.
        """
        only = self._only(rank)
        asked = self._ranks if only is None else (only,)
        return not self.waiting and all(one.slots.admits(adapter) for one in asked)

    @contextmanager
    def place(self, adapter: str | None, sequences: int) -> Iterator[int]:
        """The rank for a request of `adapter`, or of the base model, counted as its load while the
        context lasts. sequences: answers that the request asks for."""
        rank = self._choose(adapter, sequences)
        self._loads[rank] += sequences
        try:
            yield rank
        finally:
            self._loads[rank] -= sequences

    def _choose(self, adapter: str | None, sequences: int) -> int:
        if len(self) == 1:
            return 0
        if adapter is None:
            return self._loads.index(min(self._loads))
        return choose(
            order(adapter, len(self)),
            self._loads,
            sequences,
            self._places,
            lambda rank: self._ranks[rank].slots.admits(adapter),
        )

    def home(self, adapter: str) -> int:
        """The rank that comes first in the adapter's order."""
        return order(adapter, len(self))[0]

    def take(self, adapter: str, rank: int | None = None) -> AbstractAsyncContextManager[None]:
        """Run one request of `adapter` on `rank` while the context lasts, at its turn there.

        rank: None where vLLM chooses the rank; the request then takes a slot of each.
        """
        only = self._only(rank)
        return self._everywhere(adapter) if only is None else only.slots.take(adapter)

    def enter(self, rank: int | None = None) -> AbstractAsyncContextManager[None]:
        """Run one request on `rank` while the context lasts, started together with others there;
        at once where vLLM chooses the rank."""
        only = self._only(rank)
        return nullcontext() if only is None else only.batcher.enter()

    def _only(self, rank: int | None) -> Rank | None:
        """The rank that answers, if that is known."""
        if len(self) == 1:
            return self._ranks[0]
        return None if rank is None else self._ranks[rank]

    @asynccontextmanager
    async def _everywhere(self, adapter: str) -> AsyncIterator[None]:
        """Slots are taken in the order of ranks, so that two such requests never wait for each
        other."""
        async with AsyncExitStack() as held:
            for rank in self._ranks:
                await held.enter_async_context(rank.slots.take(adapter))
            yield


def choose(
    ranks: Sequence[int],
    loads: Sequence[int],
    sequences: int,
    places: int,
    admits: Callable[[int], bool],
) -> int:
    """The rank for a request of so many sequences.

    ranks: in the order of the adapter. loads: sequences on each. admits: whether the adapter would
    get a slot of a rank at once.
    """
    bound = min(places, math.ceil(SPREAD * (sum(loads) + sequences) / len(loads)))
    within = [rank for rank in ranks if loads[rank] + sequences <= bound]
    if not within:
        return min(ranks, key=loads.__getitem__)
    return next((rank for rank in within if admits(rank)), within[0])


@functools.lru_cache(maxsize=10_000)
def order(adapter: str, count: int) -> tuple[int, ...]:
    """The ranks from 0 to `count` - 1, in the adapter's order."""

    def weight(rank: int) -> bytes:
        return hashlib.blake2b(f"{rank} {adapter}".encode(), digest_size=8).digest()

    return tuple(sorted(range(count), key=weight))
