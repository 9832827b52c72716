"""Rate and concurrency limits of keys and adapters on one replica.

Requests and tokens per minute are token buckets: a minute's worth may be spent at once, and comes
back evenly. A request is charged one for each sequence that it asks for (prompts times choices),
and is admitted before its body is read: `admit` takes what the headers tell, `Grant.claim` the
rest.

Tokens are charged when a request claims them, as an estimate of the most it may use
(`body.most_tokens`), and settled with what vLLM reports when the answer ends. An answer that breaks
off before vLLM reported its usage keeps its estimate as the charge. So in-flight requests count,
and a key exceeds its limit by two things only: a single request that is larger than the limit
itself, which is admitted when the bucket is full and paid back before the next, and prompts that
have more than one token for each four bytes, by the difference.

Limits are the whole deployment's, and each replica grants its share, one `replicas`-th. A key whose
requests meet all replicas alike gets its limit; one that always meets the same replica (affinity by
adapter does that) gets between that share and the limit.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from registry.errors import BadRequest
from serving.errors import LimitReached
from serving.telemetry.metrics import LIMITED


class Bucket:
    """A bucket that holds a minute's worth and fills evenly."""

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self._most = self._left = per_minute
        self._clock = clock
        self._seen = clock()

    def wait(self, amount: float) -> float:
        """Seconds until `amount` may be taken; 0 if now. More than a minute's worth may be taken
        when the bucket is full."""
        self._fill()
        lacking = min(amount, self._most) - self._left
        return max(0.0, lacking * 60 / self._most)

    def take(self, amount: float) -> None:
        """Take `amount`, below empty if need be; a negative amount is given back."""
        self._fill()
        self._left = min(self._most, self._left - amount)

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


class Grant:
    """One admitted request: what it holds and what it was charged."""

    def __init__(self, limits: "Limits", key: str) -> None:
        self.tokens: int | None = 0
        """Tokens that the request used; None if that is unknown: the estimate stays charged."""
        self._limits = limits
        self._key = key
        self._sequences = 1
        self._adapter: str | None = None
        self._reserved = 0

    def claim(self, adapter: str, *, sequences: int = 1, tokens: int = 0) -> None:
        """Charge the whole request, now that its body is known.

        sequences: prompts times choices. tokens: the most it may use, estimated. Raises
        `LimitReached`, and `BadRequest` for more sequences than may ever run at once. What is
        refused is charged as one request.
        """
        limits, bounds, running = self._limits, self._limits.bounds, self._limits.running
        of_key = running.key[self._key] - self._sequences
        here = running.key.total() - self._sequences
        of_adapter = running.adapter[adapter]
        _check_count("key", "of this key", of_key, bounds.key_concurrency, sequences)
        _check_count("adapter", f"for {adapter}", of_adapter, bounds.adapter_concurrency, sequences)
        _check_count("replica", "here", here, bounds.concurrency, sequences)
        self.charge(sequences)
        try:
            limits.tokens.charge(self._key, tokens)
        except LimitReached:
            limits.requests.settle(self._key, 1 - sequences)
            raise
        running.key[self._key] += sequences - self._sequences
        running.adapter[adapter] += sequences
        self._adapter, self._sequences, self._reserved = adapter, sequences, tokens

    def charge(self, requests: int) -> None:
        """Charge `requests` in all instead of the one taken at admission. Raises `LimitReached`."""
        rate = self._limits.requests
        rate.settle(self._key, -1)
        try:
            rate.charge(self._key, requests)
        except LimitReached:
            rate.settle(self._key, 1)
            raise

    def release(self) -> None:
        """Give back the concurrency and settle the tokens."""
        running = self._limits.running
        _subtract(running.key, self._key, self._sequences)
        if self._adapter is not None:
            _subtract(running.adapter, self._adapter, self._sequences)
        if self.tokens is not None:
            self._limits.tokens.settle(self._key, self.tokens - self._reserved)


class Rate:
    """One limit per minute for each key."""

    def __init__(self, what: str, per_minute: float | None, clock: Callable[[], float]) -> None:
        self._what = what
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: dict[str, Bucket] = {}

    def charge(self, key: str, amount: float) -> None:
        """Take `amount` of a key's minute; raises `LimitReached` if it is not there. An amount of 0
        is refused while the key owes something."""
        if self._per_minute is None:
            return
        bucket = self._buckets.setdefault(key, Bucket(self._per_minute, self._clock))
        wait = bucket.wait(amount)
        if wait > 0:
            LIMITED.labels(f"key_{self._what}").inc()
            raise LimitReached(f"This key's {self._what} a minute are used up.", wait)
        bucket.take(amount)

    def settle(self, key: str, amount: float) -> None:
        """Take `amount` whether or not it is there; a negative amount is given back."""
        if (bucket := self._buckets.get(key)) is not None:
            bucket.take(amount)


class Running:
    """In-flight sequences, by key and by adapter."""

    def __init__(self) -> None:
        self.key: Counter[str] = Counter()
        self.adapter: Counter[str] = Counter()


class Limits:
    """Admits requests, or says when to come again. Use it from one event loop."""

    def __init__(self, bounds: Bounds, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.bounds = bounds
        self.requests = Rate("requests", bounds.key_requests, clock)
        self.tokens = Rate("tokens", bounds.key_tokens, clock)
        self.running = Running()

    @contextmanager
    def admit(self, key: str) -> Iterator[Grant]:
        """Admit one request of `key` while the context lasts, before its body is read.

        Raises `LimitReached`, which says which limit, and when to come again.
        """
        of_key, here = self.running.key[key], self.running.key.total()
        _check_count("key", "of this key", of_key, self.bounds.key_concurrency)
        _check_count("replica", "here", here, self.bounds.concurrency)
        self.tokens.charge(key, 0)
        self.requests.charge(key, 1)
        self.running.key[key] += 1
        grant = Grant(self, key)
        try:
            yield grant
        finally:
            grant.release()


def _check_count(
    whose: str, which: str, running: int, limit: int | None, sequences: int = 1
) -> None:
    """Refuse `sequences` more beside the `running` others where that is above `limit`."""
    if limit is None or running + sequences <= limit:
        return
    LIMITED.labels(f"{whose}_concurrency").inc()
    if sequences > limit:
        raise BadRequest(
            f"The request asks for {sequences} answers (prompts times `n`); at most {limit} may "
            f"run {which} at once. Ask for fewer."
        )
    raise LimitReached(f"There are {running} requests {which} already.", 1.0)


def _subtract(counter: Counter[str], name: str, count: int) -> None:
    counter[name] -= count
    if not counter[name]:
        del counter[name]
