"""Errors as OpenAI's clients expect them: `{"error": {"message", "type", "param", "code"}}`. Pure.

Source: OpenAI API reference, "Error codes".
"""

import math
from typing import Any

from adapters.errors import LoraryError
from registry.errors import AdmissionRefused

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    410: "gone_error",
    412: "conflict_error",
    429: "rate_limit_error",
}


def envelope(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """The body of an error answer."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def body_of(error: LoraryError) -> dict[str, Any]:
    """The body for one of our errors; a refused admission lists its problems, too."""
    body = envelope(error.status, error.code, error.message, error.param)
    if isinstance(error, AdmissionRefused):
        body["error"]["problems"] = [
            {"file": p.file, "problem": p.problem, "remedy": p.remedy} for p in error.problems
        ]
    return body


def headers_of(error: LoraryError) -> dict[str, str]:
    """What the status asks for beside the body."""
    match error.status:
        case 401:
            return {"www-authenticate": "Bearer"}
        case 408 | 413:
            return {"connection": "close"}  # the rest of the body is not worth reading
        case 416:
            return {"content-range": f"bytes */{getattr(error, 'size', '*')}"}
        case 429 | 503:
            return {"retry-after": str(max(1, math.ceil(getattr(error, "retry_after", 1.0))))}
        case _:
            return {}
