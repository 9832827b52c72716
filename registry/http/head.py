"""HEAD is answered as GET without a body, as RFC 9110 asks: load balancers and clients send it."""

from starlette.types import ASGIApp, Receive, Scope, Send

FILES = "/resolve/"
"""Part of the addresses of files, whose route answers HEAD itself, without reading the file."""


class HeadAsGet:
    """ASGI middleware; the server leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on."""
        if scope["type"] == "http" and scope["method"] == "HEAD" and FILES not in scope["path"]:
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)
