"""Errors as HTTP answers: in OpenAI's envelope, as the Hugging Face Hub answers, or as a page."""

import json
import logging
import re

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from adapters.errors import LoraryError
from registry.envelope import body_of, headers_of
from registry.errors import (
    BadRequest,
    NotFound,
    UnknownAdapter,
    UnknownAlias,
    UnknownDomain,
    UnknownFile,
    UnknownVersion,
)
from registry.hub.not_offered import not_offered
from registry.metrics import REFUSALS
from registry.model.access import may_see
from registry.times import utc_now
from registry.web.errors import error_page

PAGES = re.compile(r"/(?:(?:adapters|reviews)(?:/.*)?|log|login|logout|upload)?", re.DOTALL)
"""Paths of the registry's pages."""
HUB = re.compile(r"(?!/api/v1/)(?:/(?:api|lfs)/.*|.*/(?:resolve|raw)/.*|.*\.git/.*)", re.DOTALL)
"""Paths that the Hugging Face Hub's clients and Git LFS use, where `PAGES` does not match."""
TICKET = re.compile(r"/lfs/\S*")
"""The address of an upload, which holds a ticket instead of a key."""
logger = logging.getLogger("lorary.registry")


class BodyRefused(HTTPException):
    """A body that is refused while it is read. FastAPI lets no other exception out of there."""

    def __init__(self, error: LoraryError) -> None:
        super().__init__(error.status, error.message)
        self.error = error


class InvalidField(BadRequest):
    """A field of the request that cannot be read."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}. Correct the request.")
        self.param = where.encode(errors="replace").decode()


class MethodNotAllowed(BadRequest):
    """A route that exists, but not for this method."""

    status = 405


class InternalError(LoraryError):
    """A fault of the registry itself."""

    status = 500
    code = "internal_error"


def install(app: FastAPI) -> None:
    """Answer every error that leaves a route in its client's form, and log every refusal."""

    @app.exception_handler(LoraryError)
    async def refused(request: Request, error: LoraryError) -> Response:
        if isinstance(error, UnknownAdapter):
            error = _as_seen(request, error)
        return answer(request, error)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return answer(request, InvalidField(where, first["msg"]))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if isinstance(error, BodyRefused):
            return answer(request, error.error)
        path = request.url.path
        if error.status_code in (404, 405) and HUB.fullmatch(path) and not PAGES.fullmatch(path):
            return answer(request, not_offered(request.method, path))
        message = f"{request.method} {path[:200]}: {error.detail}. See the API's docs."
        kind = {404: NotFound, 405: MethodNotAllowed}.get(error.status_code, BadRequest)
        return answer(request, kind(message))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        path = TICKET.sub("/lfs/...", request.url.path)
        logger.error("unexpected error in %s", path, exc_info=error)
        message = "The registry failed. Try again. The operator finds the cause in its log."
        return _render(request, InternalError(message))


def _as_seen(request: Request, error: UnknownAdapter) -> UnknownAdapter:
    """The error without names of adapters that the caller may not see."""
    keys = request.app.state.registry.catalog.keys
    key = keys.get(getattr(request.state, "actor", ""))
    near = [p for p in error.near if key is not None and may_see(key, p.partition("/")[0])]
    return UnknownAdapter(error.path, near)


def answer(request: Request, error: LoraryError) -> Response:
    """The response that reports `error` to the client; logs it, too."""
    log_refusal(request, error.status, error.code, error.message)
    return _render(request, error)


def _render(request: Request, error: LoraryError) -> Response:
    path = request.url.path
    if PAGES.fullmatch(path) or (isinstance(error, NotFound) and _is_browsing(request)):
        return error_page(request, error)
    if HUB.fullmatch(path):
        headers = {**headers_of(error), **_hub_headers(error)}
        return JSONResponse({"error": error.message}, error.status, headers)
    return JSONResponse(body_of(error), error.status, headers_of(error))


def _is_browsing(request: Request) -> bool:
    """Whether a person looks at an address that belongs to no program."""
    path, accepted = request.url.path, request.headers.get("accept", "")
    return "text/html" in accepted and not path.startswith("/api/") and not HUB.fullmatch(path)


_HUB_CODES: dict[type[LoraryError], str] = {
    NotFound: "RepoNotFound",
    UnknownDomain: "RepoNotFound",
    UnknownAdapter: "RepoNotFound",
    UnknownVersion: "RevisionNotFound",
    UnknownAlias: "RevisionNotFound",
    UnknownFile: "EntryNotFound",
}


def _hub_headers(error: LoraryError) -> dict[str, str]:
    """By which the Hub's clients know what went wrong, and show it to people."""
    line = " ".join(error.message.split())[:2000]
    # What was asked for may stand in the message, and a header takes no control characters.
    plain = "".join(c if c.isascii() and c.isprintable() else "?" for c in line)
    headers = {"X-Error-Message": plain}
    if type(error) in _HUB_CODES:
        headers["X-Error-Code"] = _HUB_CODES[type(error)]
    return headers


def log_refusal(request: Request, status: int, code: str, message: str) -> None:
    """One line of JSON: who wanted what, and why it was refused. Never a secret."""
    REFUSALS.labels(code).inc()
    record = {
        "time": utc_now(),
        "event": "refused",
        "request": getattr(request.state, "request_id", None),
        "actor": getattr(request.state, "actor", None),
        "method": request.method,
        "path": TICKET.sub("/lfs/...", request.url.path)[:300],
        "status": status,
        "code": code,
        "reason": TICKET.sub("/lfs/...", message)[:500],
    }
    logger.warning(json.dumps(record))
