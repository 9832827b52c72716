"""Shadow traffic: a candidate also answers some requests, without delaying those of callers.

A request is copied once its caller has the whole answer. Its copy runs with the engine's lowest
priority, and only while much of the engine is free: one in `FREE_PART` of the batch's places, a
slot for the candidate's adapter that no other adapter waits for, and a place in host memory. When
they no longer are, the copy ends within `CHECK_SECONDS`. A copy that cannot run is dropped and
counted. Only counts are kept, unless the operator and the domain ask for the texts (`KeptTexts`).

Copies are not charged to the caller's key. A domain's copies are bounded by tokens a minute.
"""

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import Callable
from typing import Any

from starlette.types import Message, Scope

from adapters.errors import LoraryError
from registry.errors import VersionGone, VersionRevoked
from registry.model.catalog import Catalog, Version
from registry.model.comparisons import Comparison, Shadow
from serving.errors import (
    DeadlineExceeded,
    DiskFull,
    EngineFault,
    NothingFree,
    ShuttingDown,
    TooManyColdLoads,
)
from serving.faults import Faults, Prepare
from serving.inflight import Exchange, InFlight
from serving.outcomes.comparing import compare
from serving.outcomes.kept_texts import KeptTexts
from serving.outcomes.reading import Answer, Recording
from serving.outcomes.shadows import Totals
from serving.request.body import sequences
from serving.request.charges import most_tokens
from serving.request.limits import Bucket
from serving.request.routes import CHAT, COMPLETIONS, RESPONSES
from serving.shadow_copies import Chosen, Copy, Watch, as_shadow, expected
from serving.telemetry import access_log
from serving.telemetry.shadows import DROPPED, observe
from serving.telemetry.verdicts import VERDICTS, Times, Verdict
from serving.tiers.residency import Residency
from serving.tiers.shares import Shares

COPY_SECONDS = 60.0
"""How long a copy may take from when it is sent to the engine."""
CHECK_SECONDS = 0.05
"""Interval at which a running copy is checked: may it go on?"""
FREE_PART = 4
"""Copies run only while one in so many of the batch's places stays free."""
LOAD_SECONDS = 10.0
"""Least time between two loads of candidates, each of which delays the engine for a moment."""
REPORT_SECONDS = 10.0
"""Interval at which totals are checked: are they due for a report?"""
LAST_SECONDS = 3.0
"""How long a process that ends may take to report."""
MAX_WAITING = 64
"""Copies that may wait."""
MAX_WAITING_BYTES = 8 << 20
"""Bytes of their bodies and of the answers that callers got."""
NOT_A_FAILURE = (
    DeadlineExceeded, DiskFull, EngineFault, ShuttingDown, TooManyColdLoads, VersionGone,
    VersionRevoked,
)  # fmt: skip
"""Errors that keep a copy from being answered and do not count as the candidate's failure."""
PATHS = (CHAT, COMPLETIONS, RESPONSES)
"""Routes whose answers are compared."""
GATEWAY_FIELDS = ("cache_salt", "priority")
"""Fields of a body that the gateway adds to the caller's."""
TRACE_HEADERS = (b"traceparent", b"tracestate")


class Reply:
    """Receives the candidate's answer, which nobody else gets."""

    def __init__(self) -> None:
        self.recording = Recording()
        self.verdict: Verdict | None = None
        self.request_id = ""
        """The id of the engine's request; empty until the engine has been asked."""
        self.answer: Answer | None = None
        """The candidate's answer; None until it is complete, and if it cannot be read."""
        self.times: Times | None = None
        """The engine's times for it; None if there are none."""

    async def send(self, message: Message) -> None:
        """Record a message; with the last one, wait for the engine's statistics."""
        self.recording.see(message)
        if self.recording.complete and self.verdict is not None and self.recording.status == 200:
            await self.verdict.complete()

    async def refuse(self, error: LoraryError) -> None:
        """Raise `error`, which makes the answer void."""
        raise error


class Shadows:
    """The shadow traffic of one replica. Use it from one event loop."""

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        totals: Totals,
        texts: KeptTexts,
        inflight: InFlight,
        residency: Residency,
        shares: Shares,
        faults: Faults,
        *,
        concurrency: int,
        tokens_per_minute: int,
        longest: int,
    ) -> None:
        """catalog: reads the newest catalog. totals: where outcomes are counted for the registry.
        texts: where compared texts are kept. concurrency: copies that run at once; 0 turns shadow
        traffic off. tokens_per_minute: limit of each domain's copies. longest: tokens of the
        longest sequence that the engine takes."""
        self.totals = totals
        self._texts = texts
        self._catalog = catalog
        self._inflight = inflight
        self._residency = residency
        self._shares = shares
        self._faults = faults
        self._concurrency = concurrency
        self._bucket = functools.partial(
            Bucket, tokens_per_minute, lambda: asyncio.get_running_loop().time()
        )
        self._longest = longest
        self._waiting: deque[Copy] = deque()
        self._waiting_bytes = 0
        self._workers: set[asyncio.Task[None]] = set()
        self._buckets: dict[str, Bucket] = {}
        self._next_load = 0.0

    def watch(
        self,
        shadow: Shadow,
        candidate: Version,
        exchange: Exchange,
        scope: Scope,
        body: dict[str, Any],
        size: int,
        prepare: Prepare,
        rank: int | None = None,
    ) -> Watch:
        """Record the answer to a request of an alias with a shadow, and copy the request after it.

        Returns a context for the time that the request takes; it does nothing for a request that
        cannot be compared. scope, body: the request as vLLM gets it for the caller. size: bytes of
        the body as the caller sent it. prepare: makes the candidate's request of a body. rank: the
        engine's rank that the candidate answers on; None if there is one only, or if vLLM chooses.
        """
        if not self._concurrency or scope["path"] not in PATHS or sequences(body) != 1:
            return Watch()
        name = (f"{candidate.domain}/{candidate.adapter}", shadow.alias, shadow.number)
        chosen = Chosen(name, shadow.share, candidate, body, size, prepare, expected(scope), rank)
        return Watch(self.take, exchange, chosen)

    def take(self, copy: Copy) -> None:
        """Queue a copy for the candidate; one that finds the queue full is dropped and counted."""
        full = len(self._waiting) >= MAX_WAITING
        if full or self._waiting_bytes + copy.size > MAX_WAITING_BYTES:
            self._count(copy, _dropped("queue_full"))
            return
        self._waiting.append(copy)
        self._waiting_bytes += copy.size
        if len(self._workers) < self._concurrency:
            worker = asyncio.create_task(self._work(), name="shadow traffic")
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def idle(self) -> None:
        """Return when no copy waits or runs."""
        while self._workers:
            await asyncio.wait(self._workers)

    async def _work(self) -> None:
        while self._waiting:
            copy = self._waiting.popleft()
            self._waiting_bytes -= copy.size
            self._count(copy, await self._outcome(copy))

    def _count(self, copy: Copy, seen: Comparison) -> None:
        path, alias, _ = copy.asked.name
        domain, _, adapter = path.partition("/")
        self.totals.add(copy.asked.name, seen)
        observe((domain, adapter, alias), seen)

    async def _outcome(self, copy: Copy) -> Comparison:
        """Have the candidate answer a copy, and compare its answer with the caller's."""
        given, reply = copy.given.read(), Reply()
        if given is None:
            return _dropped("unreadable")
        if reason := self._stop_reason(copy) or self._load_refusal(copy):
            return _dropped(reason)
        try:
            await self._within_budget(copy, reply)
        except NothingFree as error:
            return _dropped(error.reason)
        except NOT_A_FAILURE as error:
            return _dropped(error.code)
        except LoraryError as error:
            return self._failed(copy, error.code)
        except Exception as error:  # vLLM may raise anything; it counts as the candidate's failure
            return self._failed(copy, type(error).__name__)
        answer = reply.answer
        if answer is None:
            return self._failed(copy, str(reply.recording.status))
        await self._keep(copy, given, answer)
        return compare(
            given,
            answer,
            greedy=copy.asked.body.get("temperature") == 0 and not copy.asked.body.get("tools"),
            expected=copy.asked.expected,
            times=None if copy.times is None or reply.times is None else (copy.times, reply.times),
        )

    async def _keep(self, copy: Copy, given: Answer, answer: Answer) -> None:
        """Keep both texts, where the operator and the domain ask for it."""
        if not self._texts.wanted:
            return
        asked = copy.asked
        if self._catalog().domain(asked.candidate.domain).policy.shadow_texts:
            path, alias, number = asked.name
            own = {name: value for name, value in asked.body.items() if name not in GATEWAY_FIELDS}
            await self._texts.keep(
                alias=f"{path}@{alias}",
                shadow=number,
                candidate=asked.candidate.number,
                request=own,
                given=given.text,
                answered=answer.text,
                expected=asked.expected,
            )

    def _failed(self, copy: Copy, code: str) -> Comparison:
        access_log.write("shadow_failed", model=str(copy.asked.candidate.ref), code=code)
        return Comparison(failed=1)

    async def _within_budget(self, copy: Copy, reply: Reply) -> None:
        """Ask the candidate, and charge its tokens to the domain's minute.

        Raises `NothingFree` if too few are left for the most that the copy may use, and what
        `_ask` raises.
        """
        domain = copy.asked.candidate.domain
        bucket = self._buckets.get(domain) or self._buckets.setdefault(domain, self._bucket())
        reserve = most_tokens(copy.asked.body, copy.asked.size, self._longest)
        if bucket.wait(reserve) > 0:
            raise NothingFree("budget")
        bucket.take(reserve)
        try:
            await self._ask(copy, reply)
        finally:
            used = reserve if reply.request_id else 0
            if reply.answer is not None:
                used = reply.answer.tokens + reply.answer.prompt_tokens
            bucket.take(used - reserve)

    async def _ask(self, copy: Copy, reply: Reply) -> None:
        """Have the engine answer a copy into `reply`; raises why it was not answered."""
        async with self._inflight.follow(_never, _nowhere, COPY_SECONDS) as exchange:
            exchange.version = copy.asked.candidate
            watching = asyncio.create_task(self._end_in_time(copy, exchange))
            try:
                async with self._residency.borrow(copy.asked.candidate, copy.asked.rank):
                    prepare = functools.partial(_prepare_timed, copy.asked.prepare, reply)
                    body = as_shadow(copy.asked.body, copy.asked.candidate)
                    await self._faults.relay(copy.app, prepare, body, exchange, reply)
            finally:
                watching.cancel()
                reply.times = VERDICTS.take_times(reply.request_id)
        reply.answer = reply.recording.read()

    async def _end_in_time(self, copy: Copy, exchange: Exchange) -> None:
        """End a running copy once it may no longer run."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            if reason := self._stop_reason(copy):
                exchange.end(NothingFree(reason))
                return

    def _load_refusal(self, copy: Copy) -> str:
        """Why the candidate may not be loaded now; "" if it may, or is in the engine already.

        If it may, no other candidate may be loaded for `LOAD_SECONDS`.
        """
        if self._residency.tier(copy.asked.candidate) == "engine":
            return ""
        now = asyncio.get_running_loop().time()
        if now < self._next_load:
            return "cold"
        self._next_load = now + LOAD_SECONDS
        return ""

    def _stop_reason(self, copy: Copy) -> str:
        """Why a copy may not start or go on; "" if it may."""
        path, alias, number = copy.asked.name
        adapter = self._catalog().adapters.get(path)
        shadow = adapter.shadowed.get(alias) if adapter is not None else None
        if self._inflight.closing or shadow is None or shadow.number != number:
            return "ended"
        few = self._shares.free - len(self._workers) < self._shares.places // FREE_PART
        return "busy" if few or self._residency.contended else ""


def _prepare_timed(
    prepare: Prepare, reply: Reply, body: dict[str, Any]
) -> tuple[str, Scope, bytes]:
    """`prepare`'s request without the caller's trace; notes its id in `reply` and times it."""
    request_id, scope, data = prepare(body)
    if not reply.request_id:
        reply.request_id = request_id
        VERDICTS.time(request_id)
    headers = [(name, value) for name, value in scope["headers"] if name not in TRACE_HEADERS]
    return request_id, {**scope, "headers": headers}, data


def _dropped(reason: str) -> Comparison:
    DROPPED.labels(reason).inc()
    return Comparison(dropped=1)


async def _never() -> Message:
    await asyncio.get_running_loop().create_future()
    return {"type": "http.disconnect"}


async def _nowhere(_message: Message) -> None:
    pass


async def report_regularly(totals: Totals, seconds: float = REPORT_SECONDS) -> None:
    """Report the totals that are due, every `seconds`, until cancelled."""
    while True:
        await asyncio.sleep(seconds)
        with contextlib.suppress(LoraryError):  # the registry was not read yet
            await totals.report()


async def report_last(totals: Totals) -> None:
    """Report every total that has changed, within `LAST_SECONDS`, before the process ends."""
    with contextlib.suppress(LoraryError, TimeoutError):
        async with asyncio.timeout(LAST_SECONDS):
            await totals.report(all_of_them=True)
