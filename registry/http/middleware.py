"""ASGI middleware around every route: HEAD as GET, request ids, counts."""

import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.metrics import REQUESTS, SECONDS

NO_GET = ("/resolve/", "/raw/", "/api/v1/events")
"""Parts of addresses for which HEAD is not GET: routes of files answer HEAD themselves, without
reading a file, and a stream of events has no end."""
_GIVEN = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


class HeadAsGet:
    """Answers HEAD as GET, whose body the server leaves out, as RFC 9110 asks: load balancers and
    clients send it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on."""
        head = scope["type"] == "http" and scope["method"] == "HEAD"
        if head and not any(part in scope["path"] for part in NO_GET):
            scope = {**scope, "method": "GET"}
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
        given = Headers(scope=scope).get("x-request-id", "")
        name = given if _GIVEN.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = name

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = name
                route = getattr(scope.get("route"), "path", "none")
                REQUESTS.labels(scope["method"], route, str(message["status"])).inc()
                SECONDS.labels(route).observe(time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, noting)
