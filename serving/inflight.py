"""In-flight requests, and what ends them before they are complete.

The caller disconnects, a deadline passes, the version is revoked, the server shuts down: whatever
the request waits for at that moment (its body, a slot, a download, the engine) is cancelled, and
everything it holds is given back. A caller that is still there gets the error, a stream that has
begun gets it as its last event. vLLM learns of it in the ways that it supports: first as if the
caller had disconnected, then by cancelling what still runs.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic

from starlette.types import Message, Receive, Send

from adapters.errors import LoraryError
from registry.errors import VersionRevoked
from registry.model.catalog import Catalog, Version
from serving.errors import CallerLeft, DeadlineExceeded, ReaderTooSlow
from serving.request.answers import is_stream
from serving.request.body import read_body
from serving.request.envelopes import error_event
from serving.telemetry.metrics import IN_FLIGHT, REFUSALS

CLOSE = (b"connection", b"close")
LEAVE_SECONDS = 1.0
"""How long the engine may take to let go of a request that was ended."""
READER_SECONDS = 30.0
"""How long, in all, a caller may keep an answer waiting because it does not read: what it holds of
the engine's slots and of its key's limits is given back then. Of a file, each piece."""


class Exchange:
    """One request and its answer, from its admission to its last byte."""

    def __init__(self, receive: Receive, send: Send, inflight: "InFlight", path: str) -> None:
        self.version: Version | None = None
        """What answers, once it is known; None before, and for the base model."""
        self.reason: LoraryError | None = None
        """Why it was ended; None while it may go on."""
        self.started = False
        """Whether part of the answer was sent."""
        self._path = path
        self._receive = receive
        self._send = send
        self._inflight = inflight
        self._loop = asyncio.get_running_loop()
        self._limit = asyncio.timeout(None)
        self._ended = self._loop.create_future()
        self._listening: asyncio.Task[None] | None = None
        self._in_engine = self._streams = self._complete = False
        self._timers: list[asyncio.TimerHandle] = []
        self._blocked = self._sending = 0.0

    def end(self, reason: LoraryError) -> None:
        """End it with `reason`, unless its answer is complete or needs nothing but sending."""
        if self.reason is not None or self._complete:
            return
        if self.started and not self._streams and not isinstance(reason, ReaderTooSlow):
            return
        self.reason = reason
        self._ended.set_result(None)
        now = self._loop.time()
        told_first = self._in_engine and not self.started
        self._limit.reschedule(now + LEAVE_SECONDS if told_first else now)

    async def read(self, declared: int | None, limit: int) -> bytes:
        """The request's body; from then on the request ends when its caller disconnects.

        Raises `TooLarge`, `SlowBody`, `CallerLeft`.
        """
        data = await read_body(self._receive, declared, limit)
        self._listening = asyncio.create_task(self._listen())
        return data

    def receiver(self) -> Receive:
        """A `receive` for the engine, which gets the request now: it says that the caller left once
        the request was ended."""
        self._in_engine = True

        async def receive() -> Message:
            await asyncio.shield(self._ended)
            return {"type": "http.disconnect"}

        return receive

    async def send(self, message: Message) -> None:
        """Pass `message` on, unless the request was ended."""
        if self.reason is not None:
            return
        if message["type"] == "http.response.start":
            self.started = True
            self._streams = is_stream(message)
            if self._inflight.closing:
                message = {**message, "headers": [*message.get("headers", ()), CLOSE]}
            self._watch_reader()
        elif not message.get("more_body", False):
            self._complete = self._streams  # a whole answer may still be refused by its reader
        self._sending = monotonic()
        try:
            await self._send(message)
        finally:
            self._blocked += monotonic() - self._sending
            self._sending = 0.0

    def restart_reader(self) -> None:
        """Count anew how long the caller keeps the answer waiting: where it is a file, sent as fast
        as it is read, its size decides how long that takes."""
        self._blocked = 0.0

    async def conclude(self, reason: LoraryError) -> None:
        """Tell the caller: raises `reason`, or makes it the last event of a stream."""
        if not self.started or isinstance(reason, CallerLeft):
            raise reason
        REFUSALS.labels(reason.code).inc()
        event = error_event(self._path, reason)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._send({"type": "http.response.body", "body": event})

    def _watch_reader(self) -> None:
        """End the request once its caller has kept it waiting for too long; one timer watches all
        pieces of an answer."""
        waited = self._blocked + (monotonic() - self._sending if self._sending else 0.0)
        if waited >= READER_SECONDS:
            self.end(ReaderTooSlow(READER_SECONDS))
        else:
            self._timers.append(self._loop.call_later(READER_SECONDS - waited, self._watch_reader))

    async def _listen(self) -> None:
        """End the request when its caller disconnects: nothing else follows a body."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.end(CallerLeft())

    def _close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        if self._listening is not None:
            self._listening.cancel()


def _digest(exchange: Exchange) -> str | None:
    return None if exchange.version is None else exchange.version.digest


class InFlight:
    """All of a replica's in-flight requests. Use it from one event loop."""

    def __init__(self) -> None:
        self.closing = False
        """Whether connections are closed after their next answer."""
        self._all: set[Exchange] = set()
        self._drained = asyncio.Event()
        self._drained.set()

    def __len__(self) -> int:
        return len(self._all)

    @asynccontextmanager
    async def follow(
        self, receive: Receive, send: Send, seconds: float | None = None, path: str = ""
    ) -> AsyncIterator[Exchange]:
        """Everything that one request of the route `path` does, for at most `seconds`.

        Raises why it was ended, if it was and nothing had been answered yet, or nobody listens.
        """
        exchange = Exchange(receive, send, self, path)
        self._all.add(exchange)
        self._drained.clear()
        IN_FLIGHT.set(len(self._all))
        if seconds is not None:
            overdue = DeadlineExceeded(seconds)
            loop = asyncio.get_running_loop()
            exchange._timers.append(loop.call_later(seconds, exchange.end, overdue))
        try:
            async with exchange._limit:
                yield exchange
        except Exception:  # an application that was made to stop may fail in any way
            if exchange.reason is None:
                raise
        finally:
            exchange._close()
            self._all.discard(exchange)
            IN_FLIGHT.set(len(self._all))
            if not self._all:
                self._drained.set()
        if exchange.reason is not None:
            await exchange.conclude(exchange.reason)

    async def drained(self, seconds: float) -> None:
        """Wait until no request is in-flight, for at most `seconds`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._drained.wait(), seconds)

    def end_all(self, reason: LoraryError) -> None:
        """End every request."""
        for exchange in tuple(self._all):
            exchange.end(reason)

    def end_version(self, culprit: Exchange, reason: LoraryError) -> None:
        """End the other requests that the version of `culprit` answers, under whichever name."""
        for other in self._all - {culprit}:
            if _digest(other) == _digest(culprit):
                other.end(reason)

    def end_revoked(self, catalog: Catalog) -> None:
        """End the requests whose version was revoked, where the domain's policy says so."""
        for exchange in tuple(self._all):
            if exchange.version is None:
                continue
            version = catalog.find(exchange.version.ref)
            if version.revoked is not None and catalog.domain(version.domain).policy.end_revoked:
                exchange.end(VersionRevoked(str(version.ref), version.revoked))


async def watch(inflight: InFlight, catalog_of: Callable[[], Catalog], seconds: float) -> None:
    """End what was revoked whenever the catalog changes, until cancelled."""
    seen = -1
    while True:
        with contextlib.suppress(LoraryError):  # the registry was not read yet
            catalog = catalog_of()
            if catalog.sequence != seen:
                inflight.end_revoked(catalog)
                seen = catalog.sequence
        await asyncio.sleep(seconds)
