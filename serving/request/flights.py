"""Requests under way in the engine, and what may end them before they are complete.

A deadline passes, the version is revoked, the server is told to leave: whoever still waits gets the
error itself, and a stream that has begun gets it as its last event. The engine is told in the ways
it listens to: first as if the caller had left, then by cancelling what still runs.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.types import Message, Receive, Send

from adapters.errors import LoraryError
from registry.catalog import Catalog, Version
from registry.envelope import body_of
from registry.errors import VersionRevoked
from serving.errors import DeadlineExceeded
from serving.telemetry.metrics import IN_FLIGHT, REFUSALS

CLOSE = (b"connection", b"close")
LEAVE_SECONDS = 1.0
"""How long the engine may take to let go of a request whose caller has left."""


class Flight:
    """One request, from its admission to its last byte."""

    def __init__(self, version: Version | None, send: Send, flights: "Flights") -> None:
        self.version = version
        self.reason: LoraryError | None = None
        """Why it was ended; None while it may go on."""
        self._send = send
        self._flights = flights
        self._limit = asyncio.timeout(None)
        self._ended = asyncio.get_running_loop().create_future()
        self._started = self._streams = False

    def end(self, reason: LoraryError) -> None:
        """End it with `reason`, unless its answer is complete but for the sending."""
        if self.reason is not None or (self._started and not self._streams):
            return
        self.reason = reason
        self._ended.set_result(None)
        now = asyncio.get_running_loop().time()
        self._limit.reschedule(now if self._started else now + LEAVE_SECONDS)

    def receiver(self, receive: Receive) -> Receive:
        """A `receive` that also says that the caller left once the request was ended."""

        async def receive_or_leave() -> Message:
            listening = asyncio.ensure_future(receive())
            try:
                await asyncio.wait((listening, self._ended), return_when=asyncio.FIRST_COMPLETED)
                return listening.result() if listening.done() else {"type": "http.disconnect"}
            finally:
                listening.cancel()

        return receive_or_leave

    async def send(self, message: Message) -> None:
        """Pass `message` on, unless the request was ended."""
        if self.reason is not None:
            return
        if message["type"] == "http.response.start":
            self._started = True
            kind = dict(message.get("headers", ())).get(b"content-type", b"")
            self._streams = kind.startswith(b"text/event-stream")
            if self._flights.closing:
                message = {**message, "headers": [*message.get("headers", ()), CLOSE]}
        await self._send(message)

    async def _conclude(self, reason: LoraryError) -> None:
        """Tell the caller: raises `reason`, or makes it the last event of a stream."""
        if not self._started:
            raise reason
        REFUSALS.labels(reason.code).inc()
        event = b"data: " + json.dumps(body_of(reason)).encode() + b"\n\n"
        await self._send({"type": "http.response.body", "body": event})


class Flights:
    """All of a replica's requests under way. Use it from one event loop."""

    def __init__(self) -> None:
        self.closing = False
        """Whether connections are closed after their next answer."""
        self._all: set[Flight] = set()
        self._landed = asyncio.Event()
        self._landed.set()

    def __len__(self) -> int:
        return len(self._all)

    @asynccontextmanager
    async def follow(
        self, version: Version | None, send: Send, seconds: float | None = None
    ) -> AsyncIterator[Flight]:
        """Everything that one request does, for at most `seconds`.

        Raises why it was ended, if it was and nothing had been answered yet.
        """
        flight = Flight(version, send, self)
        self._all.add(flight)
        self._landed.clear()
        IN_FLIGHT.set(len(self._all))
        timer = None
        if seconds is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(seconds, flight.end, DeadlineExceeded(seconds))
        try:
            async with flight._limit:
                yield flight
        except Exception:  # an application that was made to stop may fail in any way
            if flight.reason is None:
                raise
        finally:
            if timer is not None:
                timer.cancel()
            self._all.discard(flight)
            IN_FLIGHT.set(len(self._all))
            if not self._all:
                self._landed.set()
        if flight.reason is not None:
            await flight._conclude(flight.reason)

    async def landed(self, seconds: float) -> None:
        """Wait until no request is under way, for at most `seconds`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._landed.wait(), seconds)

    def end_all(self, reason: LoraryError) -> None:
        """End every request."""
        for flight in tuple(self._all):
            flight.end(reason)

    def end_version(self, digest: str, reason: LoraryError) -> None:
        """End the requests that a version of these bytes answers."""
        for flight in tuple(self._all):
            if flight.version is not None and flight.version.digest == digest:
                flight.end(reason)

    def end_revoked(self, catalog: Catalog) -> None:
        """End the requests whose version was revoked, where the domain's policy says so."""
        for flight in tuple(self._all):
            if flight.version is None:
                continue
            version = catalog.find(flight.version.ref)
            if version.revoked is not None and catalog.domain(version.domain).policy.end_revoked:
                flight.end(VersionRevoked(str(version.ref), version.revoked))


async def watch(flights: Flights, catalog_of: Callable[[], Catalog], seconds: float) -> None:
    """End what was revoked whenever the catalog changes, until cancelled."""
    seen = -1
    while True:
        with contextlib.suppress(LoraryError):  # the registry was not read yet
            catalog = catalog_of()
            if catalog.sequence != seen:
                flights.end_revoked(catalog)
                seen = catalog.sequence
        await asyncio.sleep(seconds)
