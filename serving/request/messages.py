"""What a request to `/v1/messages` may hold: Anthropic's Messages API. Pure.

As strict as `serving.request.fields`: text, function calls and their results; nothing that the
server would fetch, decode, run or remember. Source: Anthropic API reference, "Create a Message".
"""

from collections.abc import Mapping
from typing import Any

from serving.request.bounds import (
    AnyText,
    Bound,
    Checked,
    Flag,
    InvalidField,
    ListOf,
    MapOf,
    OneOf,
    Shape,
    Text,
    Whole,
)
from serving.request.constraints import SCHEMA
from serving.request.fields import FIELDS, MAX_MESSAGES, MAX_TOOLS
from serving.request.texts import MAX_ALL_PARTS, MAX_PARTS, keep

_INT32 = 2**31 - 1
_NAME = Text(256)


def _check_blocks(name: str, value: Any, members: Mapping[str, Mapping[str, Bound]]) -> None:
    """A string, or a list of blocks of these types."""
    if isinstance(value, str):
        return
    if not isinstance(value, list) or len(value) > MAX_PARTS:
        raise InvalidField(name, f"a string or a list of at most {MAX_PARTS} blocks of text")
    for index, block in enumerate(value):
        where = f"{name}[{index}]"
        kind: Any = block.get("type") if isinstance(block, dict) else None
        OneOf(tuple(members)).check(f"{where}.type", kind)
        known = members[kind]
        keep(where, block, known, tuple(key for key in known if key not in _OPTIONAL))


def _blocks(*kinds: str) -> Bound:
    members = {kind: _BLOCKS[kind] for kind in kinds}
    return Checked(
        f"a string or a list of at most {MAX_PARTS} blocks of text",
        lambda name, value: _check_blocks(name, value, members),
    )


_OPTIONAL = ("content", "is_error", "signature")
_ANY_JSON = Checked("any JSON", lambda _name, _value: None)
"""As deep and as much as a body may have."""
_TYPE: Mapping[str, Bound] = {"type": AnyText()}
_BLOCKS: dict[str, Mapping[str, Bound]] = {"text": {**_TYPE, "text": AnyText()}}
_BLOCKS |= {
    "tool_use": {
        **_TYPE,
        "id": _NAME,
        "name": _NAME,
        "input": MapOf(lambda key: len(key) <= 256, "of any names", _ANY_JSON, 1_024),
    },
    "tool_result": {
        **_TYPE,
        "tool_use_id": _NAME,
        "content": _blocks("text"),
        "is_error": Flag(),
    },
    "thinking": {**_TYPE, "thinking": AnyText(), "signature": AnyText()},
    "redacted_thinking": {**_TYPE, "data": AnyText()},
}
"""Members of each type of block; those in `_OPTIONAL` may be absent, others not known are left
out, such as `cache_control`."""
_SAID: Mapping[str, Bound] = {
    "user": _blocks("text", "tool_result"),
    "assistant": _blocks("text", "tool_use", "thinking", "redacted_thinking"),
    "system": _blocks("text"),
}
"""What a message of each role may hold."""


def _check_messages(name: str, messages: Any) -> None:
    if not isinstance(messages, list) or not 0 < len(messages) <= MAX_MESSAGES:
        raise InvalidField(name, _MESSAGES, "Send fewer.")
    parts = 0
    for index, message in enumerate(messages):
        where = f"{name}[{index}]"
        role: Any = message.get("role") if isinstance(message, dict) else None
        OneOf(tuple(_SAID)).check(f"{where}.role", role)
        keep(where, message, {"role": AnyText(), "content": _SAID[role]}, ("role", "content"))
        parts += len(message["content"]) if isinstance(message["content"], list) else 0
    if parts > MAX_ALL_PARTS:
        raise InvalidField(name, f"made of at most {MAX_ALL_PARTS:,} blocks altogether")


def _check_tools(name: str, tools: Any) -> None:
    if not isinstance(tools, list) or len(tools) > MAX_TOOLS:
        raise InvalidField(name, _TOOLS, "Send fewer.")
    for index, tool in enumerate(tools):
        where = f"{name}[{index}]"
        if isinstance(tool, dict):
            for member in _ASKS_NOTHING:
                tool.pop(member, None)
            if tool.get("type") == "custom":
                del tool["type"]
        _TOOL.check(where, tool)


_ASKS_NOTHING = ("cache_control", "eager_input_streaming")
"""Members of a tool that change no answer: the prefix cache works by itself, and arguments
are streamed as they come."""
_TOOL = Shape(
    {
        "type": OneOf(("custom",)),
        "name": Text(128),
        "description": Text(16 << 10),
        "input_schema": SCHEMA,
        "strict": Flag(),
    },
    ("name", "input_schema"),
)
_MESSAGES = f"a list of 1 to {MAX_MESSAGES:,} messages of text, tool calls and their results"
_TOOLS = f"a list of at most {MAX_TOOLS}, each {_TOOL}"
MESSAGES_FIELDS: Mapping[str, Bound] = {
    "messages": Checked(_MESSAGES, _check_messages),
    "system": _blocks("text"),
    "max_tokens": Whole(1, _INT32),
    "stop_sequences": ListOf(Text(256), 4),
    "metadata": Shape({"user_id": Text(512)}),
    "tools": Checked(_TOOLS, _check_tools),
    "tool_choice": Shape(
        {
            "type": OneOf(("auto", "any", "tool", "none")),
            "name": Text(128),
            "disable_parallel_tool_use": Flag(),
        },
        ("type",),
    ),
    "thinking": Shape(
        {
            "type": OneOf(("disabled", "adaptive")),
            "display": OneOf(("summarized", "omitted", "updates")),
        },
        ("type",),
    ),
    "output_config": Shape(
        {
            "effort": OneOf(("low", "medium", "high", "xhigh", "max")),
            "format": Shape(
                {"type": OneOf(("json_schema",)), "schema": SCHEMA}, ("type", "schema")
            ),
        }
    ),
    "service_tier": OneOf(("auto", "standard_only")),
    **{
        name: FIELDS[name]
        for name in ("model", "stream", "temperature", "top_p", "top_k", "chat_template_kwargs")
    },
}
"""The fields of `/v1/messages`. A budget of thinking is refused: nothing here bounds what it
costs."""
NEEDED = ("messages", "max_tokens")
COUNTED_FIELDS = {
    name: MESSAGES_FIELDS[name]
    for name in ("model", "messages", "system", "tools", "tool_choice", "thinking",
                 "output_config", "chat_template_kwargs")
}  # fmt: skip
"""The fields of `/v1/messages/count_tokens`: those of the prompt."""
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def constraints(body: Mapping[str, Any]) -> dict[str, Any]:
    """The schemas and tools of a body in the words of `/v1/chat/completions`, as vLLM will have
    them."""
    said: dict[str, Any] = {}
    schema = (body.get("output_config") or {}).get("format")
    if schema:
        said["response_format"] = {
            "type": "json_schema", "json_schema": {"schema": schema["schema"]}
        }  # fmt: skip
    if tools := body.get("tools"):
        said["tools"] = [
            {
                "name": tool["name"],
                "parameters": tool["input_schema"],
                "strict": bool(tool.get("strict")),
            }
            for tool in tools
        ]
    if choice := body.get("tool_choice"):
        kind = choice["type"]
        said["tool_choice"] = _CHOICES.get(kind) or {"name": choice.get("name")}
    return said
