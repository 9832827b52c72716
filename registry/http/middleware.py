"""ASGI middleware around every route: HEAD as GET, request ids, counts."""

import re
import secrets
import time
from functools import cache

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.metrics import REQUESTS, SECONDS

FILES = ("/resolve/", "/raw/")
"""Parts of the addresses of files, whose routes answer HEAD themselves, without reading a file."""
_GIVEN = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")


@cache
def _series(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    """The metrics of such answers: looking them up takes longer than counting."""
    return REQUESTS.labels(method, route, str(status)), SECONDS.labels(route)


class HeadAsGet:
    """Answers HEAD as GET, whose body the server leaves out, as RFC 9110 asks: load balancers and
    clients send it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on."""
        head = scope["type"] == "http" and scope["method"] == "HEAD"
        if head and not any(part in scope["path"] for part in FILES):
            # Without what it accepts: a stream of events has no end.
            headers = [(name, value) for name, value in scope["headers"] if name != b"accept"]
            scope = {**scope, "method": "GET", "headers": headers}
        await self._app(scope, receive, send)


class Observed:
    """Gives every request an id, the client's own if it sent a usable one, and counts it by the
    route that took it. The answer has the id as `X-Request-Id`, and refusals are logged with it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on, and note the answer's status."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request = given if _GIVEN.fullmatch(given) else secrets.token_hex(8).encode()
        scope.setdefault("state", {})["request_id"] = request.decode()

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request)]
                route = getattr(scope.get("route"), "path", "none")
                requests, seconds = _series(scope["method"], route, message["status"])
                requests.inc()
                seconds.observe(time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, noting)
