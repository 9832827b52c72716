"""Answers that the gate gives itself, as ASGI messages; errors in OpenAI's envelope."""

import json
from typing import Any

from starlette.types import Send

from adapters.errors import LoraryError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


async def answer(send: Send, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    """Send `body` as JSON."""
    data = json.dumps(body).encode()
    sent = {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})}
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        }
    )
    await send({"type": "http.response.body", "body": data})


async def refuse(send: Send, error: LoraryError) -> None:
    """Send an error of ours, with the headers that its status asks for."""
    kind = _TYPES.get(
        error.status, "server_error" if error.status >= 500 else "invalid_request_error"
    )
    body = {
        "error": {
            "message": error.message,
            "type": kind,
            "param": error.param,
            "code": error.code,
        }
    }
    headers = {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status in (429, 503):
        headers["retry-after"] = "1"
    if error.status == 413:
        headers["connection"] = "close"  # the rest of the body is not worth reading
    await answer(send, error.status, body, headers)
