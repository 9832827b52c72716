"""HEAD is answered as GET without a body, as RFC 9110 asks: load balancers and clients send it."""

from starlette.types import ASGIApp, Receive, Scope, Send

FILES = ("/resolve/", "/raw/")
"""Parts of the addresses of files, whose routes answer HEAD themselves, without reading a file."""


class HeadAsGet:
    """ASGI middleware; the server leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on."""
        head = scope["type"] == "http" and scope["method"] == "HEAD"
        if head and not any(part in scope["path"] for part in FILES):
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)
