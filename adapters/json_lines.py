"""JSON and JSON Lines in files that anybody may have written. Pure."""

import json
from typing import Any


def rows(content: bytes) -> list[Any]:
    """The rows of a JSON Lines file's content; raises `ValueError` with the number of the line.

    Lines end at line feeds only: U+2028 and others may be in a row's texts.
    """
    lines = enumerate(content.split(b"\n"), 1)
    return [_row(number, line) for number, line in lines if line.strip()]


def parse(text: bytes) -> Any:
    """What a JSON text holds; raises `ValueError`, also for a key that an object has twice, for
    halves of surrogate pairs, which no tokenizer and no request takes, and for what nests too
    deep."""
    try:
        value = json.loads(text, object_pairs_hook=_members)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it nests too deep") from None
    return value


def _row(number: int, line: bytes) -> Any:
    try:
        return parse(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"an object has a key twice: {[name for name, _ in pairs]!r:.60}")
    return found
