"""Which grammars vLLM will compile for a request. Pure."""

from collections.abc import Iterator
from typing import Any

import msgspec

from serving.grammars import patterns
from serving.grammars.protocol import Kind


def grammars(body: dict[str, Any]) -> list[tuple[Kind, str]]:
    """Those of a parsed body, as vLLM's xgrammar backend gets them.

    Tools count where vLLM makes a grammar of them: where a call is demanded, or a tool is strict.
    How it wraps them depends on the model; it is their schemas that cost.
    """
    return [*_of_outputs(body), *_of_tools(body)]


def field(body: dict[str, Any]) -> str:
    """The field of a body that asks for its first grammar."""
    asking = (name for name in ("structured_outputs", "response_format", "text") if body.get(name))
    return next((name for name in asking if [*_of_outputs({name: body[name]})]), "tools")


def form_problem(kind: Kind, spec: str) -> str:
    """What is wrong with the form of its patterns; empty if they may be tried."""
    if kind == "regex":
        return patterns.problem(spec)
    if kind == "json":
        return next(filter(None, map(patterns.problem, _patterns(spec))), "")
    return ""


def _patterns(schema: str) -> Iterator[str]:
    """The patterns of a schema; none if it is not JSON, which its trial finds."""
    try:
        read = msgspec.json.decode(schema)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return
    waiting = [read]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            waiting += part.values()
            if isinstance(part.get("pattern"), str):
                yield part["pattern"]
            if isinstance(part.get("patternProperties"), dict):
                yield from part["patternProperties"]


def _of_outputs(body: dict[str, Any]) -> Iterator[tuple[Kind, str]]:
    given = body.get("structured_outputs", {})
    if (schema := given.get("json")) is not None:
        yield "json", schema if isinstance(schema, str) else _text(schema)
    if (regex := given.get("regex")) is not None:
        yield "regex", regex
    if (grammar := given.get("grammar")) is not None:
        yield "grammar", grammar
    if (tag := given.get("structural_tag")) is not None:
        yield "structural_tag", tag
    if (choices := given.get("choice")) is not None:
        yield "choice", "root ::= " + " | ".join(_text(choice) for choice in choices)
    wanted = body.get("response_format") or (body.get("text") or {}).get("format") or {}
    if wanted.get("type") == "structural_tag":
        yield "structural_tag", _text(wanted)
    elif wanted.get("type") == "json_schema":
        yield "json", _text((wanted.get("json_schema") or wanted).get("schema") or {})


def _of_tools(body: dict[str, Any]) -> Iterator[tuple[Kind, str]]:
    tools = [tool.get("function") or tool for tool in body.get("tools", ())]
    choice = body.get("tool_choice", "auto")
    if choice == "none":
        return
    if choice == "auto":
        tools = [tool for tool in tools if tool.get("strict")]
    elif isinstance(choice, dict):
        named = (choice.get("function") or choice).get("name")
        tools = [tool for tool in tools if tool["name"] == named]
    for tool in tools:
        if tool.get("parameters") is not None:
            yield "json", _text(tool["parameters"])


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
