"""Verbs about public events and webhooks."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import httpx
import msgspec

from registry.client.connection import GATEWAY_ERRORS, Connection, check

Json: TypeAlias = "dict[str, Any]"
AGAIN_SECONDS = 2.0
"""Before a stream that broke off is asked for again."""
SILENCE_SECONDS = 60.0
"""Without a heartbeat, after which a stream is taken for broken."""


class EventVerbs:
    """What a client can do with events."""

    _connection: Connection

    def events(self, after: str = "0") -> Iterator[Json]:
        """The public events after a cursor, the number of a commit or the id of an event, as
        CloudEvents; page by page, until there are no more."""
        more = True
        while more:
            query = {"after": after, "limit": 1000}
            page = self._connection.call("GET", "/events", params=query)
            yield from page["events"]
            after, more = page["next"], page["more"]

    def follow_events(self, after: str = "0") -> Iterator[Json]:
        """As `events`, and then each new event as it happens, without an end. Connects again, from
        where it was, when the stream breaks off. Raises what the registry refuses, and
        `StoreUnavailable` if it does not answer the first time."""
        connected, place = False, after
        while True:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": after}
            try:
                with self._connection.http.stream(
                    "GET", "/api/v1/events", headers=headers, timeout=SILENCE_SECONDS
                ) as reply:
                    if reply.status_code not in GATEWAY_ERRORS:
                        check(reply)
                    connected = True
                    for line in _lines(reply) if reply.is_success else ():
                        field, _, value = line.partition(": ")
                        if field == "id":
                            place = value
                        elif field in ("data", ""):  # not before: the event may not arrive
                            after = place
                        if field == "data":
                            yield msgspec.json.decode(value)
            except httpx.TransportError as error:
                if not connected:
                    raise self._connection.silent(error) from error
            time.sleep(AGAIN_SECONDS)

    def webhooks(self) -> list[Json]:
        """The webhooks of the domains that the key operates or audits, and how far each is."""
        listed: list[Json] = self._connection.call("GET", "/webhooks")
        return listed

    def add_webhook(
        self, url: str, *, domain: str = "*", types: Sequence[str] = (), after: int | None = None
    ) -> Json:
        """Send events of a domain to `url`; the answer holds the webhook's secret, this once."""
        body = {"url": url, "domain": domain, "types": list(types), "after": after}
        added: Json = self._connection.call("POST", "/webhooks", json=body)
        return added

    def dead_letters(self, webhook: str) -> Json:
        """The events that could not be delivered to a webhook."""
        listed: Json = self._connection.call("GET", f"/webhooks/{webhook}/dead-letters")
        return listed


def _lines(reply: httpx.Response) -> Iterator[str]:
    """The lines of a stream of events. httpx would end them at any line separator of Unicode, such
    as U+2028, which texts in an event may hold."""
    rest = b""
    for piece in reply.iter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line.decode() for line in lines)
