"""A caller's trace, as W3C's Trace Context has it. Pure.

What is malformed is dropped and a new trace begins, as the recommendation asks for. Source: W3C,
Trace Context, sections 3.2 and 3.3.
"""

import re
from collections.abc import Iterable

from starlette.types import Scope

Header = tuple[bytes, bytes]

PARENT, STATE = b"traceparent", b"tracestate"
MOST_STATE_BYTES = 512
_PARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    rb"(-[ -~]{0,200})?"
)
_STATE = re.compile(rb"[ -~\t]*")


def trace_headers(headers: Iterable[Header]) -> list[Header]:
    """The headers of a well-formed trace, to be handed on; none without a valid `traceparent`."""
    headers = tuple(headers)
    parents = [value for name, value in headers if name == PARENT]
    if len(parents) != 1 or _parsed(parents[0]) is None:
        return []
    states = [value for name, value in headers if name == STATE]
    short = sum(map(len, states)) <= MOST_STATE_BYTES
    kept = states if short and all(map(_STATE.fullmatch, states)) else []
    return [(PARENT, parents[0]), *((STATE, value) for value in kept)]


def trace_id(scope: Scope) -> str | None:
    """The id of the caller's trace, for log lines; None without a valid one."""
    kept = trace_headers(scope["headers"])
    return _parsed(kept[0][1]) if kept else None


def _parsed(parent: bytes) -> str | None:
    """The trace id in a `traceparent`; only later versions than 00 may have more fields."""
    found = _PARENT.fullmatch(parent)
    if found is None or (found[1] == b"00" and found[3] is not None):
        return None
    return found[2].decode()
