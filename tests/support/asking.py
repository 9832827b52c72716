"""Requests through the gate as ASGI calls: what goes in, and what came out."""

import asyncio
import json
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from registry.model.access import Secret
from serving.gate import Gate
from tests.support.replicas import Site, Upstream, answered

CHAT = "/v1/chat/completions"


def scope_of(method: str, path: str, key: Secret | None, **extra: str) -> Scope:
    """A request's scope; `extra` are headers, with underscores for hyphens."""
    headers = [(name.lower().replace("_", "-").encode(), v.encode()) for name, v in extra.items()]
    if key is not None:
        headers.append((b"authorization", f"Bearer {key.text}".encode()))
    return {"type": "http", "method": method, "path": path, "raw_path": path.encode(),
            "root_path": "", "query_string": b"x=1", "headers": headers}  # fmt: skip


def whole(body: bytes) -> Receive:
    """A caller who sends `body` in one piece and stays."""
    return leaving_after(body, asyncio.Event())


def leaving_after(body: bytes, leave: asyncio.Event) -> Receive:
    """A caller who sends `body` in one piece, and disconnects when `leave` is set."""
    handed_out = False

    async def receive() -> Message:
        nonlocal handed_out
        if not handed_out:
            handed_out = True
            return {"type": "http.request", "body": body, "more_body": False}
        await leave.wait()
        return {"type": "http.disconnect"}

    return receive


def into(sent: list[Message]) -> Send:
    """A caller who keeps what is sent to it."""

    async def send(message: Message) -> None:
        sent.append(message)

    return send


def send_to(
    site: Site, upstream: Upstream, scope: Scope, body: bytes = b""
) -> tuple[int, dict[str, str], Any]:
    """One request through the gate; status, headers and the parsed answer."""
    sent: list[Message] = []
    asyncio.run(Gate(upstream, site.replica)(scope, whole(body), into(sent)))
    status, headers, data = answered(sent)
    return status, headers, json.loads(data)


def chat(
    site: Site, upstream: Upstream, model: Any, key: Secret | None, **fields: Any
) -> tuple[int, dict[str, str], Any]:
    """A chat request for `model`; as `send_to`."""
    body = json.dumps({"model": model, "messages": [], **fields}).encode()
    return send_to(site, upstream, scope_of("POST", CHAT, key), body)
