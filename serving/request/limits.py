"""How much one key, and one adapter, may take of this replica.

Requests and tokens per minute are token buckets: a minute's worth may be spent at once, and comes
back evenly. Tokens are known only after an answer, so a key may overdraw by the answers it has
under way; it then waits until the bucket is full enough again.

Limits are the whole deployment's, and each replica grants its share, one `replicas`-th. A key whose
requests meet all replicas alike gets its limit; one that always meets the same replica (affinity by
adapter does that) gets between that share and the limit. No key ever gets more than its limit, but
for what is under way when it runs out.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from serving.errors import LimitReached
from serving.telemetry.metrics import LIMITED


class Bucket:
    """A bucket that holds a minute's worth and fills evenly."""

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self._most = self._left = per_minute
        self._clock = clock
        self._seen = clock()

    def wait(self, amount: float) -> float:
        """Seconds until `amount` may be taken; 0 if now."""
        self._fill()
        lacking = min(amount, self._most) - self._left
        return max(0.0, lacking * 60 / self._most)

    def take(self, amount: float) -> None:
        """Take `amount`, below empty if need be."""
        self._fill()
        self._left -= amount

    def _fill(self) -> None:
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._seen) * self._most / 60)
        self._seen = now


@dataclass(frozen=True, slots=True)
class Bounds:
    """One replica's share of the limits; None where there is none."""

    key_requests: float | None = None
    key_tokens: float | None = None
    key_concurrency: int | None = None
    adapter_concurrency: int | None = None
    concurrency: int | None = None


@dataclass(slots=True)
class Grant:
    """A request that was let in; its tokens are told when it ends."""

    tokens: int = 0


class Limits:
    """Lets requests in, or says when to come again. Use it from one event loop."""

    def __init__(self, bounds: Bounds, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._bounds = bounds
        self._clock = clock
        self._requests: dict[str, Bucket] = {}
        self._tokens: dict[str, Bucket] = {}
        self._by_key: Counter[str] = Counter()
        self._by_adapter: Counter[str] = Counter()

    @contextmanager
    def admit(self, key: str, adapter: str) -> Iterator[Grant]:
        """Let one request of `key` for `adapter` in, while the context lasts.

        Raises `LimitReached`, which says which limit, and when to come again.
        """
        bounds = self._bounds
        self._check_rate("requests", self._requests, key, bounds.key_requests, 1)
        self._check_rate("tokens", self._tokens, key, bounds.key_tokens, 0)
        of_key, of_adapter = self._by_key[key], self._by_adapter[adapter]
        _check_count("key", "of this key", of_key, bounds.key_concurrency)
        _check_count("adapter", f"for {adapter}", of_adapter, bounds.adapter_concurrency)
        _check_count("replica", "here", self._by_key.total(), bounds.concurrency)
        if key in self._requests:
            self._requests[key].take(1)
        self._by_key[key] += 1
        self._by_adapter[adapter] += 1
        grant = Grant()
        try:
            yield grant
        finally:
            for counter, name in ((self._by_key, key), (self._by_adapter, adapter)):
                counter[name] -= 1
                if not counter[name]:
                    del counter[name]
            if key in self._tokens:
                self._tokens[key].take(grant.tokens)

    def _check_rate(
        self, what: str, buckets: dict[str, Bucket], key: str, limit: float | None, amount: float
    ) -> None:
        if limit is None:
            return
        bucket = buckets.get(key)
        if bucket is None:
            bucket = buckets[key] = Bucket(limit, self._clock)
        wait = bucket.wait(amount)
        if wait > 0:
            LIMITED.labels(f"key_{what}").inc()
            raise LimitReached(f"This key's {what} a minute are used up.", wait)


def _check_count(whose: str, which: str, running: int, limit: int | None) -> None:
    if limit is not None and running >= limit:
        LIMITED.labels(f"{whose}_concurrency").inc()
        raise LimitReached(f"There are {running} requests {which} already.", 1.0)
