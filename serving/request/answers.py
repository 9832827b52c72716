"""Answers that the gate gives itself, as ASGI messages."""

import json
from typing import Any

from starlette.types import Message, Send

from adapters.errors import LoraryError
from registry.envelope import body_of, headers_of
from serving.errors import Leaving


async def answer(send: Send, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    """Send `body` as JSON; bytes are JSON already."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})}
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        }
    )
    await send({"type": "http.response.body", "body": data})


class Noting:
    """A `send` that knows whether an answer was begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def send(self, message: Message) -> None:
        """Pass one message on."""
        self.begun = True
        await self._send(message)


async def refuse(send: Send, error: LoraryError) -> None:
    """Send an error of ours in OpenAI's envelope."""
    headers = headers_of(error)
    if isinstance(error, Leaving):
        headers["connection"] = "close"  # the next request on it would be refused, too
    await answer(send, error.status, body_of(error), headers)
