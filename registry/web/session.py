"""Who is looking: a cookie that proves a key without holding it.

The cookie names the key and when the session ends, signed by the registry (`access.sign`). Revoking
the key ends its sessions. It is HttpOnly and SameSite=Strict, and every
form is refused that another site sent.
"""

import hmac
import time
from typing import Annotated
from urllib.parse import quote, urlsplit

from fastapi import Depends, Request, Response
from fastapi.responses import RedirectResponse

from adapters.errors import LoraryError
from registry.access import check_active, sign
from registry.api.access import Caller
from registry.api.errors import tell_with
from registry.catalog import Catalog, Key
from registry.errors import Forbidden, Unauthenticated
from registry.registry import Registry, utc_now
from registry.settings import RegistrySettings
from registry.web.rendering import page

COOKIE = "lorary_session"
PURPOSE = "session"
SECONDS = 12 * 3600


def begin(response: Response, key: Key, service_secret: str, *, secure: bool) -> None:
    """Let the browser that gets `response` look as `key`."""
    claims = f"{key.id}.{int(time.time()) + SECONDS}"
    response.set_cookie(
        COOKIE,
        f"{claims}.{sign(service_secret, PURPOSE, key, claims)}",
        max_age=SECONDS,
        httponly=True,
        samesite="strict",
        secure=secure,
    )


def key_of(catalog: Catalog, cookie: str | None, service_secret: str) -> Key:
    """The key that a session's cookie proves; raises `Unauthenticated`."""
    claims, _, signature = (cookie or "").rpartition(".")
    identity, _, ends = claims.partition(".")
    key = catalog.keys.get(identity)
    made = sign(service_secret, PURPOSE, key, claims) if key else ""
    if key is None or not hmac.compare_digest(made, signature) or int(ends) < time.time():
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
    settings: RegistrySettings = request.app.state.settings
    service_secret = settings.session_secret.get_secret_value()
    key = key_of(catalog, request.cookies.get(COOKIE), service_secret)
    request.state.actor = key.id
    return Caller(key, catalog, registry, settings)


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
