"""Stands where a replica would, for tests of the front alone: it says who it is and what it got.

    python -m tests.support.stub_replica PORT

A request's `user` field holds what to do, as `key=value` pairs: `wait` seconds first, answer with
`status`, `stream` so many pieces. POST /drain makes it unhealthy, as a replica that is ending.
"""

import asyncio
import json
import sys

import uvicorn
from starlette.types import Receive, Scope, Send


class Stub:
    """One replica, as an ASGI application."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._draining = False
        self._running = 0
        self._most = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if scope["path"] == "/health":
            await self._answer(send, 503 if self._draining else 200, {})
        elif scope["path"] == "/drain":
            self._draining = True
            await self._answer(send, 200, {})
        else:
            self._running += 1
            self._most = max(self._most, self._running)
            try:
                await self._serve(scope, body, send)
            finally:
                self._running -= 1

    async def _serve(self, scope: Scope, body: bytes, send: Send) -> None:
        orders = _orders(body)
        await asyncio.sleep(float(orders.get("wait", 0)))
        headers = {k.decode(): v.decode("latin-1") for k, v in scope["headers"]}
        told = {
            "replica": self._port,
            "path": scope["path"],
            "headers": headers,
            "bytes": len(body),
            "most": self._most,
        }
        status = int(orders.get("status", 200))
        if "only" in orders and int(orders["only"]) != self._port:
            status = 200
        if "stream" in orders:
            await self._stream(send, int(orders["stream"]))
        else:
            await self._answer(send, status, told)

    async def _stream(self, send: Send, pieces: int) -> None:
        kind = [(b"content-type", b"text/event-stream"), (b"x-lorary-adapter", b"a/b@1")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        for number in range(pieces):
            data = f"data: {number} {self._port}\n\n".encode()
            await send({"type": "http.response.body", "body": data, "more_body": True})
            await asyncio.sleep(0.2)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _answer(self, send: Send, status: int, told: object) -> None:
        data = json.dumps(told).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(data)).encode()),
            (b"x-lorary-adapter", b"a/b@1"),
            (b"x-lorary-digest", b"00"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": data})


def _orders(body: bytes) -> dict[str, str]:
    try:
        user = json.loads(body).get("user", "")
    except (ValueError, AttributeError):
        return {}
    return dict(pair.split("=") for pair in user.split()) if isinstance(user, str) else {}


if __name__ == "__main__":
    number = int(sys.argv[1])
    uvicorn.run(Stub(number), host="127.0.0.1", port=number, log_level="warning")
