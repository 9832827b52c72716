"""What the gate reads of a request beside its body: the headers it heeds, the scope it hands on.

Pure: a scope in, a value or a new scope out.
"""

import functools
import math
from typing import Any

from starlette.types import Scope

from registry.errors import BadRequest
from registry.model.catalog import Key
from serving.request.trace import trace_headers

PASSED_HEADERS = frozenset((b"accept", b"content-type", b"user-agent"))
"""Every other request header stays outside: some make layers inside choose another model, another
engine, or run something, the caller's key must not reach it, and the id of an answer is
ours to choose. A caller's trace is handed on as well, if it is well-formed: it goes on in vLLM's
spans."""

DETAILS = "lorary.details"
"""In the scope of /health: whether the answer may name adapters."""
BATCH_KEY = "lorary.batch_key"
"""In the scope of a batch's line: the id of the key that made the batch. No caller can set it."""


def inner(scope: Scope, path: str, query: bytes, *headers: tuple[bytes, bytes]) -> Scope:
    """The scope that vLLM sees: exactly the path that was checked, only harmless headers."""
    kept = [(name, value) for name, value in scope["headers"] if name in PASSED_HEADERS]
    return {
        **scope,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query,
        "headers": [*kept, *trace_headers(scope["headers"]), *headers],
    }


def sticky(scope: Scope, user: Any, key: Key) -> str:
    """Who is to stay with one version where an alias is split: whom the caller names, or the key.

    OpenAI's `user`, or the header X-Lorary-Sticky.
    """
    named = header(scope, b"x-lorary-sticky") or user
    return f"{key.id}:{named}" if isinstance(named, str) else key.id


def header(scope: Scope, wanted: bytes) -> str | None:
    """A header's only value; a header given twice counts as absent."""
    values = [value for name, value in scope["headers"] if name == wanted]
    return values[0].decode("latin-1") if len(values) == 1 else None


def flag(scope: Scope, name: bytes) -> bool:
    """Whether a header says yes; raises `BadRequest` for what is neither yes nor no."""
    text = (header(scope, name) or "false").lower()
    if text not in ("true", "false"):
        raise BadRequest(f"{name.decode()} is true or false. Say which.")
    return text == "true"


def allowed_seconds(scope: Scope, most: float | None) -> float | None:
    """How long the answer may take: what the caller allows, and at most `most`."""
    text = header(scope, b"x-lorary-timeout")
    if text is None:
        return most
    try:
        wanted = float(text)
    except ValueError:
        wanted = math.nan
    if not 0 < wanted < math.inf:
        raise BadRequest("X-Lorary-Timeout is a number of seconds above 0, such as 2.5.")
    return wanted if most is None else min(wanted, most)


def declared_length(scope: Scope) -> int | None:
    """What Content-Length says; None if nothing sensible."""
    text = header(scope, b"content-length")
    return int(text) if text is not None and text.isdigit() else None


def has_route(scope: Scope, path: str, *, default: bool = True) -> bool:
    """Whether vLLM's application, `app` in the scope, has a route of that path.

    default: what is returned if the scope has no application, or one that lists no routes.
    """
    app = scope.get("app")
    return default if getattr(app, "routes", None) is None else path in _paths(app)


@functools.lru_cache(maxsize=4)
def _paths(app: Any) -> frozenset[str]:
    """The routes of an application, which has them all before its first request."""
    return frozenset(path for route in app.routes if (path := getattr(route, "path", None)))
