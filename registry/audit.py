"""The audit log in words: the fields of an event, for the command line and the pages. Pure."""

from collections.abc import Mapping
from typing import Any

LONGEST = 300
"""Letters of a field's text."""


def described(event: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and texts of an event's fields, given as plain JSON; empty ones are left out."""
    texts = ((name, _text(value)) for name, value in event.items() if name != "type")
    return [(name, text) for name, text in texts if text]


def _text(value: Any) -> str:
    """A field's value in one line."""
    if value is None or value == [] or value == {}:
        return ""
    if isinstance(value, Mapping):
        if value.keys() == {"role", "domain"}:
            text = f"{value['role']}:{value['domain']}"
        else:
            parts = ((name, _text(part)) for name, part in value.items())
            text = " ".join(f"{name}={part}" for name, part in parts if part)
    elif isinstance(value, list | tuple):
        text = ", ".join(_text(part) for part in value)
    else:
        text = str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
