"""Errors as HTTP answers, in OpenAI's envelope."""

import json
import logging
from collections.abc import Callable

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from adapters.errors import LoraryError
from registry.envelope import body_of, envelope, headers_of
from registry.errors import (
    UnknownAdapter,
    UnknownAlias,
    UnknownDomain,
    UnknownFile,
    UnknownVersion,
)
from registry.metrics import REFUSALS

Teller = Callable[[Request, LoraryError], Response]
"""How a request's client is told what was refused."""
logger = logging.getLogger("lorary.registry")


def install(app: FastAPI) -> None:
    """Let every error that leaves a route become an envelope, and every refusal a log line."""

    @app.exception_handler(LoraryError)
    async def refused(request: Request, error: LoraryError) -> Response:
        log_refusal(request, error.status, error.code, error.message)
        tell: Teller = getattr(request.state, "tell", _tell)
        return tell(request, error)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"{where}: {first['msg']}. Correct the request."
        log_refusal(request, 400, "invalid_request", message)
        if _speaks_hub(request.url.path):
            return JSONResponse({"error": message}, 400)
        return JSONResponse(envelope(400, "invalid_request", message, where), 400)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path[:200]}: {error.detail}. See the API's docs."
        code = "not_found" if error.status_code == 404 else "invalid_request"
        if _speaks_hub(request.url.path):
            headers = {"X-Error-Code": "RepoNotFound"} if error.status_code == 404 else {}
            return JSONResponse({"error": message}, error.status_code, headers)
        return JSONResponse(envelope(error.status_code, code, message), error.status_code)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        logger.error("unexpected error in %s", request.url.path, exc_info=error)
        message = "The registry failed. Try again; its log tells the operator why."
        return JSONResponse(envelope(500, "internal_error", message), 500)


def tell_with(request: Request, tell: Teller) -> None:
    """Let this request's errors be told in another way: to other clients, or as a page."""
    request.state.tell = tell


def _speaks_hub(path: str) -> bool:
    """Whether the clients of that path expect errors as the Hugging Face Hub tells them."""
    if path.startswith("/api/"):
        return not path.startswith("/api/v1/")
    return path.startswith("/lfs/") or "/resolve/" in path or ".git/" in path


def _tell(request: Request, error: LoraryError) -> Response:
    if _speaks_hub(request.url.path):
        return _tell_hub(error)
    return JSONResponse(body_of(error), error.status, headers_of(error))


def _tell_hub(error: LoraryError) -> Response:
    headers = {**headers_of(error), **_hub_headers(error)}
    return JSONResponse({"error": error.message}, error.status, headers)


_HUB_CODES: dict[type[LoraryError], str] = {
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
        "event": "refused",
        "actor": getattr(request.state, "actor", None),
        "method": request.method,
        "path": request.url.path[:300],
        "status": status,
        "code": code,
        "reason": message[:500],
    }
    logger.warning(json.dumps(record))
