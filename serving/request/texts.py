"""Messages and items: text and function calls only. Pure.

Anything else (images, sounds, files) would make the server fetch or decode what a stranger names.
Members that are not known here are left out: clients send back what other servers once gave them.
"""

from collections.abc import Mapping
from typing import Any

from serving.request.bounds import AnyText, Bound, Checked, InvalidField, ListOf, OneOf, Text

PARTS = ("text", "refusal", "input_text", "output_text", "summary_text", "reasoning_text")
ITEMS = ("message", "function_call", "function_call_output", "reasoning")
MAX_PARTS = 256
"""Parts of one message, and function calls of one."""


def check_messages(name: str, messages: Any, most: int) -> None:
    """Raise `InvalidField` unless `messages` is a list of at most `most` messages of text."""
    if not isinstance(messages, list) or len(messages) > most:
        raise InvalidField(name, f"a list of at most {most:,} messages", "Send fewer.")
    for index, message in enumerate(messages):
        _keep(f"{name}[{index}]", message, _MESSAGE)


def check_items(name: str, items: Any, most: int) -> None:
    """The same for the input of `/v1/responses`, whose items get the members that vLLM needs."""
    if not isinstance(items, list) or len(items) > most:
        raise InvalidField(name, f"a string, or a list of at most {most:,} items", "Send fewer.")
    for index, item in enumerate(items):
        where = f"{name}[{index}]"
        if not isinstance(item, dict):
            raise InvalidField(where, "an object")
        OneOf(ITEMS).check(f"{where}.type", item.setdefault("type", "message"))
        _keep(where, item, _ITEM)
        if item["type"] == "message" and item.get("role") == "assistant":
            _complete(item, index)


def _complete(item: dict[str, Any], index: int) -> None:
    """Give an earlier answer what OpenAI's clients leave out and vLLM's types require."""
    if isinstance(item.get("content"), list):
        item.setdefault("id", f"msg_{index}")
        item.setdefault("status", "completed")
        for part in item["content"]:
            if part["type"] == "output_text":
                part["annotations"] = []


def _keep(name: str, value: Any, members: Mapping[str, Bound]) -> None:
    """Leave out what is null or not among `members`; check the rest."""
    if not isinstance(value, dict):
        raise InvalidField(name, "an object")
    for key in [key for key in value if value[key] is None or key not in members]:
        del value[key]
    for key, inner in value.items():
        members[key].check(f"{name}.{key}", inner)


def _check_part(name: str, part: Any) -> None:
    _keep(name, part, _PART)
    if "type" not in part:
        raise InvalidField(f"{name}.type", _PART["type"])


def _check_text(name: str, value: Any) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, list):
        raise InvalidField(name, _TEXT)
    _PART_LIST.check(name, value)


_PART: Mapping[str, Bound] = {"type": OneOf(PARTS), "text": AnyText(), "refusal": AnyText()}
_PART_LIST = ListOf(Checked("a part of text", _check_part), MAX_PARTS)
_TEXT = Checked(f"a string or a list of at most {MAX_PARTS} parts of text", _check_text)
_NAME = Text(256)
_FUNCTION: Mapping[str, Bound] = {"name": _NAME, "arguments": AnyText()}
_CALL: Mapping[str, Bound] = {
    "id": _NAME,
    "type": OneOf(("function",)),
    "function": Checked("a function", lambda name, value: _keep(name, value, _FUNCTION)),
}
_MESSAGE: Mapping[str, Bound] = {
    "role": Text(32),
    "content": _TEXT,
    "name": _NAME,
    "tool_call_id": _NAME,
    "tool_calls": ListOf(
        Checked("a function call", lambda name, value: _keep(name, value, _CALL)), MAX_PARTS
    ),
    "refusal": AnyText(),
    "reasoning": AnyText(),
    "reasoning_content": AnyText(),
}
_ITEM: Mapping[str, Bound] = {
    "type": OneOf(ITEMS),
    "role": Text(32),
    "content": _TEXT,
    "id": _NAME,
    "status": Text(32),
    "call_id": _NAME,
    "name": _NAME,
    "arguments": AnyText(),
    "output": _TEXT,
    "summary": _PART_LIST,
    "encrypted_content": AnyText(),
}
