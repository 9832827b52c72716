"""Messages and items: text and function calls only. Pure.

Anything else (images, sounds, files) would make the server fetch or decode what a stranger names.
Members that are not known here are left out: clients send back what other servers once gave them.
"""

from collections.abc import Mapping
from typing import Any

from serving.request.bounds import AnyText, Bound, Checked, InvalidField, ListOf, OneOf, Text
from serving.request.json_text import ARGUMENTS

CHAT_PARTS = ("text", "refusal")
"""Types of the parts of a chat's messages, as OpenAI's API has them."""
PARTS = (*CHAT_PARTS, "input_text", "output_text", "summary_text", "reasoning_text")
"""Types of the parts of items for `/v1/responses`, which are given the type that is meant."""
MAX_PARTS = 256
"""Parts of one message, and function calls of one."""
MAX_ALL_PARTS = 4_096
"""Parts and function calls of all messages: vLLM's types take 20 µs to check each."""


def check_messages(name: str, messages: Any, most: int) -> None:
    """Raise `InvalidField` unless `messages` is a list of at most `most` messages of text."""
    if not isinstance(messages, list) or len(messages) > most:
        raise InvalidField(name, f"a list of at most {most:,} messages", "Send fewer.")
    for index, message in enumerate(messages):
        keep(f"{name}[{index}]", message, _MESSAGE, ("role",))
    _check_parts(name, messages)


def check_items(name: str, items: Any, most: int) -> None:
    """The same for the input of `/v1/responses`, whose items are completed to what vLLM's types
    require: it tries each item that does not fit against every type that OpenAI has, which takes
    seconds for a few hundred, and reports all of that."""
    if not isinstance(items, list) or len(items) > most:
        raise InvalidField(name, f"a string, or a list of at most {most:,} items", "Send fewer.")
    for index, item in enumerate(items):
        where = f"{name}[{index}]"
        if not isinstance(item, dict):
            raise InvalidField(where, "an object")
        kind = item.setdefault("type", "message")
        OneOf(tuple(_ITEMS)).check(f"{where}.type", kind)
        members, needed = _ITEMS[kind]
        keep(where, item, members, needed)
        _complete(item, index)
    _check_parts(name, items)


def _check_parts(name: str, messages: list[dict[str, Any]]) -> None:
    lists = (value for message in messages for value in message.values())
    if sum(len(value) for value in lists if isinstance(value, list)) > MAX_ALL_PARTS:
        raise InvalidField(name, f"made of at most {MAX_ALL_PARTS:,} parts and calls altogether")


def _complete(item: dict[str, Any], index: int) -> None:
    """Give an item the types of its parts, and what OpenAI's clients leave out.

    Parts of an answer and of reasoning become one: of several, vLLM 0.32 reads the first alone, and
    it fails on none and on a refusal.
    """
    said = item.get("role") == "assistant"
    if item["type"] == "reasoning":
        item.setdefault("summary", [])
        item["summary"] = _joined(item["summary"], "summary_text")
        if "content" in item:
            item["content"] = _joined(item["content"], "reasoning_text")
    elif said and isinstance(item["content"], list):
        item.setdefault("id", f"msg_{index}")
        item.setdefault("status", "completed")
        (answer,) = _joined(item["content"], "output_text") or [{"type": "output_text", "text": ""}]
        item["content"] = [answer | {"annotations": []}]
    elif not said:
        _retype(item.get("content"), "input_text")
        _retype(item.get("output"), "input_text")


def _retype(parts: Any, kind: str) -> None:
    for part in parts if isinstance(parts, list) else ():
        text = _said(part)
        part.clear()
        part |= {"type": kind, "text": text}


def _joined(parts: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """One part with the text of all, by lines as vLLM joins a chat's; none of none."""
    return [{"type": kind, "text": "\n".join(map(_said, parts))}] if parts else []


def _said(part: dict[str, Any]) -> str:
    return str(part["refusal" if part["type"] == "refusal" else "text"])


def keep(name: str, value: Any, members: Mapping[str, Bound], needed: tuple[str, ...] = ()) -> None:
    """Leave out what is null or not among `members`; check the rest, and that `needed` is there."""
    if not isinstance(value, dict):
        raise InvalidField(name, "an object")
    for key in [key for key in value if value[key] is None or key not in members]:
        del value[key]
    for key, inner in value.items():
        members[key].check(f"{name}.{key}", inner)
    for key in needed:
        if key not in value:
            raise InvalidField(f"{name}.{key}", members[key])


def _parts(types: tuple[str, ...]) -> Bound:
    """A list of parts of these types."""
    members: Mapping[str, Bound] = {
        "type": OneOf(types), "text": AnyText(), "refusal": AnyText(),
    }  # fmt: skip

    def check(name: str, part: Any) -> None:
        keep(name, part, members, ("type",))
        member = "refusal" if part["type"] == "refusal" else "text"
        if member not in part:
            raise InvalidField(f"{name}.{member}", members[member])

    return ListOf(Checked("a part of text", check), MAX_PARTS)


def _text(parts: Bound) -> Bound:
    """A string or such parts."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, str):
            return
        if not isinstance(value, list):
            raise InvalidField(name, words)
        parts.check(name, value)

    words = f"a string or a list of at most {MAX_PARTS} parts of text"
    return Checked(words, check)


_CHAT_TEXT = _text(_parts(CHAT_PARTS))
_PART_LIST = _parts(PARTS)
_TEXT = _text(_PART_LIST)
_NAME = Text(256)
_FUNCTION: Mapping[str, Bound] = {"name": _NAME, "arguments": ARGUMENTS}
_CALL: Mapping[str, Bound] = {
    "id": _NAME,
    "type": OneOf(("function",)),
    "function": Checked(
        "a function", lambda name, value: keep(name, value, _FUNCTION, tuple(_FUNCTION))
    ),
}
_MESSAGE: Mapping[str, Bound] = {
    "role": Text(32),
    "content": _CHAT_TEXT,
    "name": _NAME,
    "tool_call_id": _NAME,
    "tool_calls": ListOf(
        Checked("a function call", lambda name, value: keep(name, value, _CALL, tuple(_CALL))),
        MAX_PARTS,
    ),
    "refusal": AnyText(),
    "reasoning": AnyText(),
    "reasoning_content": AnyText(),
}
_STATUS: Mapping[str, Bound] = {
    "id": _NAME,
    "status": OneOf(("in_progress", "completed", "incomplete")),
}
_ITEMS: Mapping[str, tuple[Mapping[str, Bound], tuple[str, ...]]] = {
    "message": (
        {
            **_STATUS,
            "type": AnyText(),
            "role": OneOf(("user", "assistant", "system", "developer")),
            "content": _TEXT,
        },
        ("role", "content"),
    ),
    "function_call": (
        {**_STATUS, "type": AnyText(), "call_id": _NAME, "name": _NAME, "arguments": ARGUMENTS},
        ("call_id", "name", "arguments"),
    ),
    "function_call_output": (
        {**_STATUS, "type": AnyText(), "call_id": _NAME, "output": _TEXT},
        ("call_id", "output"),
    ),
    "reasoning": (
        {
            **_STATUS,
            "type": AnyText(),
            "summary": _PART_LIST,
            "content": _PART_LIST,
            "encrypted_content": AnyText(),
        },
        (),
    ),
}
"""The members of each type of item, and those that must be there."""
