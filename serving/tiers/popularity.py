"""How popular each adapter is, which decides what is evicted: the LRFU policy.

LRFU ranks by a "combined recency and frequency": a request for an adapter counts 1 when it comes,
and half as much after every `half_life` further requests for any adapter. An adapter with a single
recent request is evicted before one that is requested all the time, and an adapter that is no
longer requested loses its rank. Evicted adapters keep their scores.

Source: D. Lee et al., "LRFU: A Spectrum of Policies that Subsumes the Least Recently Used and
Least Frequently Used Policies", IEEE Transactions on Computers 50(12), 2001.
"""

import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable

NEVER = -math.inf
"""The score of an adapter without requests."""
HALF_LIFE = 8
"""Requests, for each place in the engine's memory, after which a request counts half. Chosen by
`python -m benchmarks.adapters_at_scale`: close to the best hit rate for a fixed popularity, and
better than LRU where the popularity changes every 5,000 requests."""
REMEMBERED = 32_768
"""Adapters with a score. Beyond that, the one requested least recently loses its score."""


class Popularity:
    """Scores by digest; the higher, the more popular. A request takes constant time.

    A score is the base-2 logarithm of the sum of 2^(t / half_life) over the adapter's requests,
    where t counts all requests. Other adapters' requests do not change it, so scores taken at
    different times can be compared.
    """

    def __init__(self, half_life: float, *, remembered: int = REMEMBERED) -> None:
        """half_life: requests after which a request counts half."""
        self._step = 1 / half_life
        self._now = 0.0
        self._remembered = remembered
        self._scores: OrderedDict[str, float] = OrderedDict()

    def note(self, digest: str) -> None:
        """Count a request."""
        self._now += self._step
        before = self._scores.get(digest, NEVER)
        self._set(digest, self._now + math.log2(1 + 2 ** (before - self._now)))

    def expect(self, digest: str) -> None:
        """Rank an adapter as if it had one request now, however often this is called."""
        self.inherit(digest, self._now)

    def inherit(self, digest: str, score: float) -> None:
        """Raise an adapter to `score`: that of the adapter whose requests it takes over."""
        if score > self.of(digest):
            self._set(digest, score)

    def of(self, digest: str) -> float:
        """The adapter's score; `NEVER` without requests, or if the last one was long ago."""
        return self._scores.get(digest, NEVER)

    def _set(self, digest: str, score: float) -> None:
        self._scores[digest] = score
        self._scores.move_to_end(digest)
        if len(self._scores) > self._remembered:
            self._scores.popitem(last=False)


class Ranking:
    """Some adapters, of which the least popular can be found in logarithmic time."""

    def __init__(self, popularity: Popularity) -> None:
        self._popularity = popularity
        self._numbers: dict[str, int] = {}
        """Each adapter's entry in the heap; its other entries no longer count."""
        self._heap: list[tuple[float, int, str]] = []
        """Scores as they were when last looked at. They have only risen since."""
        self._next = itertools.count()

    def add(self, digest: str) -> None:
        """Rank an adapter; one that is ranked already keeps its place among equals."""
        if digest not in self._numbers:
            number = self._numbers[digest] = next(self._next)
            heapq.heappush(self._heap, (self._popularity.of(digest), number, digest))

    def discard(self, digest: str) -> None:
        """Remove an adapter, if it is ranked."""
        self._numbers.pop(digest, None)

    def least(self, may_go: Callable[[str], bool]) -> str | None:
        """The least popular adapter that `may_go`; of equal ones, the one added first."""
        passed = []
        found = None
        while found is None and self._heap:
            score, number, digest = heapq.heappop(self._heap)
            if self._numbers.get(digest) != number:
                continue
            now = self._popularity.of(digest)
            if now == score:
                passed.append((score, number, digest))
                found = digest if may_go(digest) else None
            else:
                heapq.heappush(self._heap, (now, number, digest))
        for entry in passed:
            heapq.heappush(self._heap, entry)
        return found
