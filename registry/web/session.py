"""Who is looking: a cookie that proves a key without holding it.

The cookie names the key and when the session ends, signed (HMAC-SHA256) with the stored digest of
the key's secret. Revoking the key ends its sessions. It is HttpOnly and SameSite=Strict, and every
form is refused that another site sent.
"""

import hashlib
import hmac
import time
from typing import Annotated
from urllib.parse import quote, urlsplit

from fastapi import Depends, Request, Response
from fastapi.responses import RedirectResponse

from adapters.errors import LoraryError
from registry.access import check_active
from registry.api.access import Caller
from registry.api.errors import tell_with
from registry.catalog import Catalog, Key
from registry.errors import Forbidden, Unauthenticated
from registry.registry import Registry, utc_now
from registry.web.rendering import page

COOKIE = "lorary_session"
SECONDS = 12 * 3600


def begin(response: Response, key: Key, *, secure: bool) -> None:
    """Let the browser that gets `response` look as `key`."""
    claims = f"{key.id}.{int(time.time()) + SECONDS}"
    response.set_cookie(
        COOKIE,
        f"{claims}.{_sign(key, claims)}",
        max_age=SECONDS,
        httponly=True,
        samesite="strict",
        secure=secure,
    )


def key_of(catalog: Catalog, cookie: str | None) -> Key:
    """The key that a session's cookie proves; raises `Unauthenticated`."""
    claims, _, signature = (cookie or "").rpartition(".")
    identity, _, ends = claims.partition(".")
    key = catalog.keys.get(identity)
    sound = key is not None and hmac.compare_digest(_sign(key, claims), signature)
    if key is None or not sound or int(ends) < time.time():
        raise Unauthenticated("You are not signed in (any more). Sign in with your key.")
    check_active(key, utc_now())
    return key


def viewer(request: Request) -> Caller:
    """Whoever looks at a page; errors become pages, and strangers are sent to sign in."""
    tell_with(request, _tell)
    if request.method == "POST":
        same_site(request)
    registry: Registry = request.app.state.registry
    catalog = registry.refresh()
    key = key_of(catalog, request.cookies.get(COOKIE))
    request.state.actor = key.id
    return Caller(key, catalog, registry, request.app.state.settings)


def same_site(request: Request) -> None:
    """Raises `Forbidden` for a form that was not sent from one of our own pages."""
    origin = request.headers.get("origin")
    if origin is None or urlsplit(origin).netloc != request.headers.get("host"):
        raise Forbidden("This form came from another site. Open the page here and send it again.")


ViewerDep = Annotated[Caller, Depends(viewer)]


def _tell(request: Request, error: LoraryError) -> Response:
    if isinstance(error, Unauthenticated):
        path = request.url.path if request.method == "GET" else "/"
        return RedirectResponse(f"/login?next={quote(path)}", 303)
    return page("error.html", status=error.status, error=error, viewer=None)


def _sign(key: Key, claims: str) -> str:
    return hmac.new(key.secret_sha256.encode(), claims.encode(), hashlib.sha256).hexdigest()
