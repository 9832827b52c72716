"""Browser sessions: a cookie that proves a key without holding it.

The cookie is a signed token (`registry.tokens`), HttpOnly and SameSite=Strict; forms sent from
another site are refused. Revoking the key ends its sessions. Signing out ends the session in the
process that handles it; another process with the same `LORARY_SESSION_SECRET` accepts a copied
cookie until it expires.
"""

import secrets
import threading
import time
from contextlib import suppress
from typing import Annotated

from fastapi import Depends, Request, Response

from registry import tokens
from registry.errors import Forbidden, Unauthenticated
from registry.http.access import Caller
from registry.model.catalog import Catalog, Key
from registry.registry import Registry
from registry.settings import RegistrySettings

COOKIE = "lorary_session"
PURPOSE = "session"
SECONDS = 12 * 3600


def begin(response: Response, key: Key, service_secret: str, *, secure: bool) -> None:
    """Let the browser that gets `response` look as `key`."""
    response.set_cookie(
        COOKIE,
        tokens.issue(service_secret, PURPOSE, key, secrets.token_hex(8), SECONDS),
        max_age=SECONDS,
        httponly=True,
        samesite="strict",
        secure=secure,
    )


class Ended:
    """Sessions that were signed out before they expired. Thread-safe."""

    def __init__(self) -> None:
        self._until: dict[str, int] = {}
        self._changing = threading.Lock()

    def add(self, token: tokens.Token) -> None:
        """Stop accepting `token`. Only valid tokens are kept, and only until they expire."""
        now = time.time()
        with self._changing:
            left = {name: ends for name, ends in self._until.items() if ends >= now}
            self._until = {**left, token.signature: token.expires}

    def __contains__(self, signature: str) -> bool:
        return signature in self._until


def token_of(request: Request, catalog: Catalog) -> tokens.Token:
    """The session that the request's cookie proves; raises `Unauthenticated`."""
    settings: RegistrySettings = request.app.state.settings
    secret = settings.session_secret.get_secret_value()
    try:
        token = tokens.verify(catalog, secret, PURPOSE, request.cookies.get(COOKIE, ""))
    except Unauthenticated as error:
        raise Unauthenticated("You are not signed in (any more). Sign in with your key.") from error
    if token.signature in request.app.state.ended:
        raise Unauthenticated("You have signed out. Sign in with your key.")
    return token


def end(request: Request) -> None:
    """Sign the browser out: its cookie is not accepted any more, not even a copy of it."""
    with suppress(Unauthenticated):
        request.app.state.ended.add(token_of(request, request.app.state.registry.refresh()))


def viewer(request: Request) -> Caller:
    """The signed-in caller of a page; raises `Unauthenticated` or `Forbidden`."""
    if request.method == "POST":
        same_site(request)
    registry: Registry = request.app.state.registry
    catalog = registry.refresh()
    key = token_of(request, catalog).key
    request.state.actor = key.id
    return Caller(key, catalog, registry, request.app.state.settings)


def same_site(request: Request) -> None:
    """Raises `Forbidden` for a form that was not sent from one of our own pages."""
    origin = request.headers.get("origin", "")
    host = request.headers.get("host", "")
    if not host or origin.lower() not in {f"http://{host}".lower(), f"https://{host}".lower()}:
        raise Forbidden("This form came from another site. Open the page here and send it again.")


ViewerDep = Annotated[Caller, Depends(viewer)]
