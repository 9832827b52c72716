"""Bounds of JSON, seen in its text before anything parses it. Pure.

vLLM parses some strings of a body as JSON: the arguments of function calls, schemas, structural
tags. Its parser recurses as deep as the text nests, and a `RecursionError` is a fault of the server
to it, not one of the request.
"""

import json
import re
from typing import Any

from serving.request.bounds import Checked, InvalidField

MAX_DEPTH = 48
"""How deep arrays and objects of a body may nest."""
MAX_VALUES = 100_000
"""Values of a body, without the token ids of one prompt."""
_STRINGS = re.compile(rb'"[^"]*"?')
"""The strings of a JSON text without escaped quotes, the last one also without its end."""
_BRACKETS = re.compile(rb"[\[{\]}]")


def has_at_most(values: int, data: bytes) -> bool:
    """Whether JSON has so few values, judged by its punctuation: to parse millions takes
    seconds."""
    if _marks(data) <= values:
        return True
    bare = _without_escapes(data)
    return bare.count(b'"') <= 4 * values and _marks(_STRINGS.sub(b"", bare)) <= values


def nests_at_most(depth: int, data: bytes) -> bool:
    """Whether no bracket of JSON, or of what only begins as JSON, is more than so deep."""
    if data.count(b"[") + data.count(b"{") <= depth:
        return True
    level = 0
    for found in _BRACKETS.finditer(_STRINGS.sub(b"", _without_escapes(data))):
        level += 1 if found[0] in b"[{" else -1
        if level > depth:
            return False
    return True


def parsed(text: str) -> Any:
    """The value of a JSON text as vLLM parses it; raises `ValueError`.

    The error is a `json.JSONDecodeError` only for what is no JSON. Others are about what cannot be
    passed on: more or deeper values than a body may have, numbers of more digits than Python
    reads, halves of surrogate pairs.
    """
    data = text.encode()
    if not (has_at_most(MAX_VALUES, data) and nests_at_most(MAX_DEPTH, data)):
        raise ValueError("too many values, or too deep")
    value = json.loads(text)
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _check_arguments(name: str, value: Any) -> None:
    """What is no JSON passes: vLLM takes it as no arguments, so that a chat can go on after it."""
    if not isinstance(value, str):
        raise InvalidField(name, ARGUMENTS)
    try:
        parsed(value)
    except json.JSONDecodeError:
        return
    except ValueError as error:
        raise InvalidField(name, ARGUMENTS, "Send fewer or flatter arguments.") from error


ARGUMENTS = Checked(
    f"a string of JSON with at most {MAX_VALUES:,} values, nested at most {MAX_DEPTH} deep, "
    "without numbers of thousands of digits and halves of surrogate pairs",
    _check_arguments,
)


def _marks(data: bytes) -> int:
    return sum(map(data.count, (b"[", b"{", b",")))


def _without_escapes(data: bytes) -> bytes:
    return data.replace(b"\\\\", b"").replace(b'\\"', b"")
