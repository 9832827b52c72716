"""Rows as other tools write them, under the keys that data.py reads. Pure.

    Alpaca             {"instruction", "input", "output"}; as a pair "chosen" and "rejected"
    OpenAI preferences {"input": {"messages"}, "preferred_output", "non_preferred_output"}

Of an Alpaca row the prompt is the instruction, and after an empty line the input if there is one:
plain text for the base's own chat template, not Alpaca's "Below is an instruction". ShareGPT's and
OpenAI's conversations are read as they are (conversations.py). A key that is not renamed here
stays, to be read or refused as in any row.
"""

from collections.abc import Mapping
from typing import Any

_PREFERENCES = {"preferred_output": "chosen", "non_preferred_output": "rejected"}


def renamed(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row under our keys; as it is if it is in none of the formats.

    Raises `ValueError` for a row that is nearly in one of them.
    """
    if "instruction" in row:
        return _alpaca(row)
    if "preferred_output" in row or "non_preferred_output" in row:
        return _preferences(row)
    return dict(row)


def _alpaca(row: Mapping[str, Any]) -> dict[str, Any]:
    if row.get("prompt"):
        raise ValueError("it has both an instruction and a prompt: remove one of them")
    rest = {k: v for k, v in row.items() if k not in ("instruction", "input", "output", "prompt")}
    asked = [_text(row, "instruction")]
    if row.get("input"):
        asked.append(_text(row, "input"))
    made: dict[str, Any] = {**rest, "prompt": "\n\n".join(asked)}
    if "output" in row:
        made["completion"] = _text(row, "output")
        # The same once more, in Alpaca's own words.
        whole = rest.get("text")
        if isinstance(whole, str) and all(part in whole for part in (*asked, made["completion"])):
            del made["text"]
    return made


def _preferences(row: Mapping[str, Any]) -> dict[str, Any]:
    given = row.get("input")
    if not isinstance(given, Mapping) or "messages" not in given:
        raise ValueError("it has preferred outputs, but its input holds no messages")
    unread = [key for key, value in given.items() if key != "messages" and value]
    if unread:
        raise ValueError(f"its input's key {unread[0]!r} is not read; only messages are")
    rest = {k: v for k, v in row.items() if k not in ("input", *_PREFERENCES)}
    answers = {ours: row[theirs] for theirs, ours in _PREFERENCES.items()}
    return {**rest, "prompt": given["messages"], **answers}


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row[key]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"its {key} is no text, or empty")
    return value
