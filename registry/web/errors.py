"""Errors as pages."""

from contextlib import suppress
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from adapters.errors import LoraryError
from registry.errors import Unauthenticated
from registry.web import session
from registry.web.rendering import page


def error_page(request: Request, error: LoraryError) -> Response:
    """The page that shows `error`, or the way to the sign-in page."""
    if isinstance(error, Unauthenticated):
        path = request.url.path if request.method == "GET" else "/"
        return RedirectResponse(f"/login?next={quote(path)}", 303)
    viewer = None
    with suppress(Unauthenticated):  # by what is known already: an error asks no store
        viewer = session.token_of(request, request.app.state.registry.catalog)
    return page("error.html", status=error.status, error=error, viewer=viewer)
