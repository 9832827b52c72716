"""Shadow traffic: a candidate also answers some requests, out of their callers' way.

A request is copied once its caller has the whole answer. Its copy runs with the engine's lowest
priority, and only while much of the engine is free: a quarter of the batch's places, a slot for the
candidate's adapter that no other adapter waits for, and a place in host memory that is free.
When that ends, so does the copy, within `LOOK_SECONDS`. What cannot be asked is dropped and
counted; nothing waits for long, and nothing is kept but counts.

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

SECONDS = 60.0
"""How long a copy may take, once it is asked."""
LOOK_SECONDS = 0.05
"""Between two looks whether a copy that runs may go on."""
FREE = 4
"""One in so many of the batch's places stays free beside the copies, or none is asked."""
LOAD_SECONDS = 10.0
"""At least so long between two loads of candidates: each one holds up the engine for a moment."""
REPORT_SECONDS = 10.0
"""Between two looks at what is to be reported."""
LAST_SECONDS = 3.0
"""How long a process that ends may take to report."""
MAX_WAITING = 64
MAX_WAITING_BYTES = 8 << 20
"""Copies that wait, and their bodies with the answers that callers got."""
NOT_ITS_FAULT = (
    DeadlineExceeded, DiskFull, EngineFault, ShuttingDown, TooManyColdLoads, VersionGone,
    VersionRevoked,
)  # fmt: skip
"""What may keep a candidate from answering and says nothing against it."""
PATHS = (CHAT, COMPLETIONS, RESPONSES)
OURS = ("cache_salt", "priority")
"""Fields of a body that the gateway sets."""
TRACES = (b"traceparent", b"tracestate")


class Reply:
    """Takes the candidate's answer: what vLLM sends goes nowhere else."""

    def __init__(self) -> None:
        self.recording = Recording()
        self.verdict: Verdict | None = None
        self.request_id = ""
        """The engine's name of the request; empty until it is asked."""
        self.answer: Answer | None = None
        """What the candidate answered, once it has ended."""
        self.times: Times | None = None

    async def send(self, message: Message) -> None:
        """Keep a message; the last one once the engine's statistics are there."""
        self.recording.see(message)
        if self.recording.complete and self.verdict is not None and self.recording.status == 200:
            await self.verdict.complete()

    async def refuse(self, error: LoraryError) -> None:
        """The answer is none."""
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
        """concurrency: copies that run at once; 0 for none at all. tokens_per_minute: of each
        domain's copies. longest: tokens of the longest sequence that the engine takes."""
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
        """Watch a request of an alias with a shadow, while the context lasts.

        body: as vLLM gets it for the caller. size: its bytes. prepare: makes the candidate's
        request of it. rank: the engine's rank that answers; None if there is one only, or if vLLM
        chooses.
        """
        if not self._concurrency or scope["path"] not in PATHS or sequences(body) != 1:
            return Watch()
        name = (f"{candidate.domain}/{candidate.adapter}", shadow.alias, shadow.number)
        chosen = Chosen(name, shadow.share, candidate, body, size, prepare, expected(scope), rank)
        return Watch(self.take, exchange, chosen)

    def take(self, copy: Copy) -> None:
        """Have a copy answered, if there is room for one more to wait."""
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
        """What is to be counted of a copy."""
        given, reply = copy.given.read(), Reply()
        if given is None:
            return _dropped("unreadable")
        if reason := self._why_not(copy) or self._is_cold(copy):
            return _dropped(reason)
        try:
            await self._within_budget(copy, reply)
        except NothingFree as error:
            return _dropped(error.reason)
        except NOT_ITS_FAULT as error:
            return _dropped(error.code)
        except LoraryError as error:
            return self._failed(copy, error.code)
        except Exception as error:  # whatever vLLM raises, it is the candidate's failure
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
            own = {name: value for name, value in asked.body.items() if name not in OURS}
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
        """Ask the candidate, its tokens taken from its domain's minute."""
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
        async with self._inflight.follow(_never, _nowhere, SECONDS) as exchange:
            exchange.version = copy.asked.candidate
            watching = asyncio.create_task(self._end_in_time(copy, exchange))
            try:
                async with self._residency.borrow(copy.asked.candidate, copy.asked.rank):
                    prepare = functools.partial(_timed, copy.asked.prepare, reply)
                    body = as_shadow(copy.asked.body, copy.asked.candidate)
                    await self._faults.relay(copy.app, prepare, body, exchange, reply)
            finally:
                watching.cancel()
                reply.times = VERDICTS.take_times(reply.request_id)
        reply.answer = reply.recording.read()

    async def _end_in_time(self, copy: Copy, exchange: Exchange) -> None:
        """End a copy as soon as it may not go on."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if reason := self._why_not(copy):
                exchange.end(NothingFree(reason))
                return

    def _is_cold(self, copy: Copy) -> str:
        """Why the candidate may not be loaded now; nothing if it may, or is there."""
        if self._residency.tier(copy.asked.candidate) == "engine":
            return ""
        now = asyncio.get_running_loop().time()
        if now < self._next_load:
            return "cold"
        self._next_load = now + LOAD_SECONDS
        return ""

    def _why_not(self, copy: Copy) -> str:
        """Why a copy may not run now, or go on; nothing if it may."""
        path, alias, number = copy.asked.name
        adapter = self._catalog().adapters.get(path)
        shadow = adapter.shadowed.get(alias) if adapter is not None else None
        if self._inflight.closing or shadow is None or shadow.number != number:
            return "ended"
        few = self._shares.free - len(self._workers) < self._shares.places // FREE
        return "busy" if few or self._residency.contended else ""


def _timed(prepare: Prepare, reply: Reply, body: dict[str, Any]) -> tuple[str, Scope, bytes]:
    """A candidate's request, with nothing of its caller's trace."""
    request_id, scope, data = prepare(body)
    if not reply.request_id:
        reply.request_id = request_id
        VERDICTS.time(request_id)
    headers = [(name, value) for name, value in scope["headers"] if name not in TRACES]
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
    """Report what is due every so often, until cancelled."""
    while True:
        await asyncio.sleep(seconds)
        with contextlib.suppress(LoraryError):  # the registry was not read yet
            await totals.report()


async def report_last(totals: Totals) -> None:
    """Report whatever is new, for a bounded time: the process is about to end."""
    with contextlib.suppress(LoraryError, TimeoutError):
        async with asyncio.timeout(LAST_SECONDS):
            await totals.report(all_of_them=True)
