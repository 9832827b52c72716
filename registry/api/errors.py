"""Errors as HTTP answers, in OpenAI's envelope."""

import json
import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from adapters.errors import LoraryError
from registry.envelope import body_of, envelope, headers_of

logger = logging.getLogger("lorary.registry")


def install(app: FastAPI) -> None:
    """Let every error that leaves a route become an envelope, and every refusal a log line."""

    @app.exception_handler(LoraryError)
    async def refused(request: Request, error: LoraryError) -> JSONResponse:
        log_refusal(request, error.status, error.code, error.message)
        return JSONResponse(body_of(error), error.status, headers_of(error))

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"{where}: {first['msg']}. Correct the request."
        log_refusal(request, 400, "invalid_request", message)
        return JSONResponse(envelope(400, "invalid_request", message, where), 400)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path[:200]}: {error.detail}. See the API's docs."
        code = "not_found" if error.status_code == 404 else "invalid_request"
        return JSONResponse(envelope(error.status_code, code, message), error.status_code)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        logger.error("unexpected error in %s", request.url.path, exc_info=error)
        message = "The registry failed. Try again; its log tells the operator why."
        return JSONResponse(envelope(500, "internal_error", message), 500)


def log_refusal(request: Request, status: int, code: str, message: str) -> None:
    """One line of JSON: who wanted what, and why it was refused. Never a secret."""
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
