"""One answer through the relay, without an engine."""

import asyncio
from collections.abc import Iterable

from starlette.types import Message

from registry.model.catalog import Version
from serving.inflight import InFlight
from serving.relay import Relay
from serving.request.confidence import Judge
from serving.request.routes import CHAT, ROUTES
from serving.request.usage import Usage
from tests.support.asking import into, whole


def relayed(
    messages: Iterable[Message],
    version: Version | None,
    *,
    usage: Usage | None = None,
    judge: Judge | None = None,
    path: str = CHAT,
) -> tuple[Relay, list[Message]]:
    """The relay that an answer has passed, and what its caller got."""
    sent: list[Message] = []

    async def run() -> Relay:
        async with InFlight().follow(whole(b""), into(sent)) as exchange:
            relay = Relay(
                exchange, version, "base", usage or Usage(), route=ROUTES[path], judge=judge
            )
            for message in messages:
                await relay.send(message)
            return relay

    return asyncio.run(run()), sent


def pieces_of(kind: bytes, pieces: Iterable[bytes], *, ends: bool = True) -> list[Message]:
    """An answer of the content type `kind` as vLLM sends it."""
    headers = [(b"content-type", kind)]
    return [
        {"type": "http.response.start", "status": 200, "headers": headers},
        *({"type": "http.response.body", "body": piece, "more_body": True} for piece in pieces),
        *([{"type": "http.response.body", "body": b""}] if ends else []),
    ]
