"""Routes of public events: one page as JSON, or all that follow as server-sent events."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from adapters.errors import LoraryError
from registry.errors import Overloaded, StoreError
from registry.http.access import CallerDep
from registry.model.access import check_active, may_see
from registry.notify.cloudevents import Position, PublicEvent
from registry.notify.feed import Feed, Page
from registry.registry import Registry
from registry.times import utc_now

STREAM = "text/event-stream"
POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
PER_KEY = 4
"""Streams that one key may hold open."""
MOST = 200
"""Streams of one process."""
AT_ONCE = 4
"""Pages that are read for streams at once, each in a thread."""
PAGE = 100

router = APIRouter(tags=["events"])


class Streams:
    """The open streams of one process. For one event loop."""

    def __init__(self, registry: Registry) -> None:
        self.feed = Feed(registry)
        self.closed = False
        self._open: Counter[str] = Counter()
        self._reading = asyncio.Semaphore(AT_ONCE)
        self._looked = 0.0

    def open(self, key: str) -> None:
        """Count a stream of a key; raises `Overloaded`."""
        if self._open[key] >= PER_KEY or self._open.total() >= MOST:
            raise Overloaded(
                f"A key may hold {PER_KEY} streams, and a process {MOST}. Close one, or wait."
            )
        self._open[key] += 1

    def release(self, key: str) -> None:
        """A stream of the key has ended."""
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]

    def close(self) -> None:
        """End all streams soon."""
        self.closed = True

    async def page(self, key: str, after: Position, limit: int) -> Page:
        """The events that a key may see now. Raises `Unauthenticated` if it opens nothing."""
        known = self.feed.registry.catalog.keys[key]
        check_active(known, utc_now())

        def wanted(event: PublicEvent) -> bool:
            return may_see(known, event.domain)

        async with self._reading:
            return await run_in_threadpool(self.feed.page, after, limit, wanted)

    async def wait(self, after: Position, seconds: float) -> bool:
        """Wait until the log goes on after a cursor, for some seconds at the most; whether it
        does."""
        clock = asyncio.get_running_loop().time
        ends = clock() + seconds
        while clock() < ends and not self.closed:
            if self.feed.registry.catalog.sequence > after.sequence:
                return True
            await asyncio.sleep(POLL_SECONDS)
            if clock() - self._looked >= POLL_SECONDS:  # one look for all streams
                self._looked = clock()
                await run_in_threadpool(self.feed.registry.refresh)
        return False


@router.get("/events", response_model=dict[str, Any])
async def read_events(
    request: Request,
    caller: CallerDep,
    after: Annotated[str, Query(max_length=30)] = "0",
    limit: Annotated[int, Query(ge=1, le=1000)] = PAGE,
    last_event_id: Annotated[str | None, Header(max_length=30)] = None,
) -> Response:
    """Public events of the domains that the caller may see, as CloudEvents, oldest first.

    `after`: the number of a commit or the id of an event; events that follow it are returned.
    `next` is the cursor of the next page; `more` is true while there is more to read now. With
    `Accept: text/event-stream` the answer is a stream that goes on with new events, and
    `Last-Event-ID` takes the place of `after`.
    """
    streams: Streams = request.app.state.streams
    if STREAM in request.headers.get("accept", ""):
        start = Position.parse(last_event_id or after)
        return EventStream(streams, caller.key.id, start)
    page = await streams.page(caller.key.id, Position.parse(after), limit)
    events = [msgspec.Raw(event.body) for event in page.events]
    answer = {"events": events, "next": str(page.next), "more": page.more}
    return Response(msgspec.json.encode(answer), media_type="application/json")


class EventStream(StreamingResponse):
    """Events as they happen, until the client leaves, its key ends or the server shuts down."""

    media_type = STREAM

    def __init__(self, streams: Streams, key: str, start: Position) -> None:
        super().__init__(_frames(streams, key, start), headers={"Cache-Control": "no-store"})
        streams.open(key)
        self._streams, self._key = streams, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams.release(self._key)


async def _frames(streams: Streams, key: str, cursor: Position) -> AsyncIterator[bytes]:
    """The stream's text. An id without data moves the client's cursor past commits that hold
    nothing for it. See https://html.spec.whatwg.org/multipage/server-sent-events.html"""
    yield b"retry: 2000\n\n"
    while not streams.closed:
        try:
            page = await streams.page(key, cursor, PAGE)
            for event in page.events:
                yield b"id: %s\nevent: %s\ndata: %s\n\n" % (
                    str(event.position).encode(), event.type.encode(), event.body
                )  # fmt: skip
            cursor = page.next
            if page.more:
                continue
            if not await streams.wait(cursor, HEARTBEAT_SECONDS):
                yield b": heartbeat\nid: %s\n\n" % str(cursor).encode()
        except StoreError:  # a bucket that is away for now
            await asyncio.sleep(POLL_SECONDS)
            yield b": heartbeat\n\n"
        except LoraryError:  # the key was revoked, or a newer Lorary wrote the log
            return
