"""Answers as ASGI messages: what one is, and those that the gate gives itself."""

import json
import re
import secrets
from typing import Any

from starlette.types import Message, Scope, Send

from adapters.errors import LoraryError
from registry.envelope import headers_of
from serving.errors import ShuttingDown
from serving.request.envelopes import error_body, is_anthropic

_GIVEN_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


def is_stream(start: Message) -> bool:
    """Whether the answer that a message of the type `http.response.start` begins is a stream of
    server-sent events."""
    kind = dict(start.get("headers", ())).get(b"content-type", b"")
    return bool(kind.startswith(b"text/event-stream"))


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
    """A `send` that knows whether an answer was begun, and gives each the request's id."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._send = send
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        usable = _GIVEN_ID.fullmatch(given)
        self.request_id = given if usable else secrets.token_hex(8).encode()
        """The client's own, if it sent a usable one."""
        self._headers = [(b"x-request-id", self.request_id)]
        if is_anthropic(scope["path"]):
            self._headers.append((b"request-id", self.request_id))
        self.begun = False

    async def send(self, message: Message) -> None:
        """Pass one message on."""
        if not self.begun:
            self.begun = True
            message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
        await self._send(message)


async def refuse(send: Send, error: LoraryError, path: str) -> None:
    """Send an error of ours in the envelope of the route."""
    headers = headers_of(error)
    if isinstance(error, ShuttingDown):
        headers["connection"] = "close"  # the next request on it would be refused, too
    await answer(send, error.status, error_body(path, error), headers)
