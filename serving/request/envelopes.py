"""Errors as the client of each route reads them: OpenAI's envelope, or Anthropic's. Pure.

Source: Anthropic API reference, "Errors".
"""

import json
from typing import Any

import msgspec

from adapters.errors import LoraryError
from registry.envelope import body_of

MESSAGES = "/v1/messages"
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    410: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class _OpenAI(msgspec.Struct):
    error: dict[str, Any]


def is_anthropic(path: str) -> bool:
    """Whether a route is of Anthropic's API."""
    return path == MESSAGES or path.startswith(f"{MESSAGES}/")


def error_body(path: str, error: LoraryError) -> dict[str, Any]:
    """The body of one of our errors."""
    if not is_anthropic(path):
        return body_of(error)
    return _anthropic(error.status, error.message, error.code)


def error_event(path: str, error: LoraryError) -> bytes:
    """The last event of a stream that ends with one of our errors."""
    data = b"data: " + json.dumps(error_body(path, error)).encode() + b"\n\n"
    return b"event: error\n" + data if is_anthropic(path) else data


def translated(status: int, body: bytes) -> bytes:
    """An error of vLLM's server, in whichever envelope it is, in Anthropic's."""
    try:
        told = msgspec.json.decode(body, type=_OpenAI).error
    except msgspec.MsgspecError:
        told = {}
    message = told.get("message")
    said = message if isinstance(message, str) else "The request failed. Try again."
    return json.dumps(_anthropic(status, said, None)).encode()


def _anthropic(status: int, message: str, code: str | None) -> dict[str, Any]:
    kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    told = {"type": kind, "message": message}
    return {"type": "error", "error": told if code is None else {**told, "code": code}}
