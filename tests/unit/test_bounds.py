"""What a request's body may hold: every field has a bound, and more than it is a clear 400."""

import asyncio
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from registry.errors import BadRequest
from serving.errors import SlowBody
from serving.request import bounds
from serving.request.body import parse_body, prompts, read_body, sequences
from serving.request.bounds import Bound
from serving.request.constraints import MAX_PATTERN, MAX_PATTERNS, MAX_SCHEMA_DEPTH
from serving.request.fields import (
    FIELDS,
    MAX_CHOICES,
    MAX_ITEMS,
    MAX_MESSAGES,
    MAX_SEQUENCES,
    RESPONSES_FIELDS,
)
from serving.request.json_text import MAX_DEPTH, MAX_VALUES
from serving.request.reference import table

ROOT = Path(__file__).resolve().parents[2]
USER = {"role": "user", "content": "x"}


def deep(levels: int) -> dict[str, Any]:
    """A schema that nests so deep."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels // 2):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


SCHEMAS = (
    [{}, {"type": "object"}, deep(MAX_SCHEMA_DEPTH - 2), {"$ref": "#"}],
    [
        7, [], "x", deep(MAX_SCHEMA_DEPTH + 2), {"enum": list(range(5_000))},
        {"description": "x" * (1 << 17)}, {"pattern": "x" * (MAX_PATTERN + 1)},
        {"allOf": [{"pattern": str(n)} for n in range(MAX_PATTERNS + 1)]},
        {"patternProperties": {"x" * (MAX_PATTERN + 1): {}}},
    ],
)  # fmt: skip
DEEP = "[" * (MAX_DEPTH + 1)
ARGUMENTS = (
    ["{}", "", "{", "x", "[1, NaN]", '{"a": "[[{\\"["}', "[" * MAX_DEPTH, '"[' + "[" * 100_000,
     "[]" * 1_000],
    [{}, 7, DEEP + "]" * len(DEEP), "[" * 100_000 + "]" * 100_000, DEEP, "[NaN, " + DEEP,
     "1" * 5_000, '"\\ud800"', "[" + "1," * MAX_VALUES + "1]"],
)  # fmt: skip
"""Strings that vLLM parses as JSON; what is no JSON counts there as no arguments."""
SCHEMA_TEXTS = (
    [json.dumps(schema) for schema in SCHEMAS[0]],
    [*(json.dumps(schema) for schema in SCHEMAS[1]), "{", "", DEEP, "1" * 5_000],
)
PROMPTS = (
    ["x", [1, 2], ["x"] * MAX_SEQUENCES, [[1]] * MAX_SEQUENCES],
    [7, {}, [], [[]] * (MAX_SEQUENCES + 1), ["x"] * (MAX_SEQUENCES + 1), [1, "x"], ["x", 1],
     [[1], "x"], [-1], [2**31], [True], [[1.5]], [{}]],
)  # fmt: skip


def called(name: str, arguments: Any) -> dict[str, Any]:
    """A function call of a chat."""
    return {"id": "a", "type": "function", "function": {"name": name, "arguments": arguments}}


def messages(name: str, most: int, bad: list[Any]) -> tuple[list[Any], list[Any]]:
    """Good and bad values of `messages` or `input`."""
    image = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}
    parts = [
        image, {"type": "input_image", "image_url": "http://127.0.0.1/"}, {"type": ["text"]},
        {"image_url": "x"}, "x", {"type": "input_file", "file_id": "x"},
        {"type": "text", "text": 7},
    ]  # fmt: skip
    call, items = {"role": "assistant", "content": "x"}, name == "input"
    good_calls, bad_calls = (
        [
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": given}
            if items
            else call | {"tool_calls": [called("f", given)]}
            for given in those
        ]
        for those in ARGUMENTS
    )
    if not items:
        parts += [{"type": f"{kind}_text", "text": "x"} for kind in ("input", "summary", "output")]
    many = {"role": "user", "content": [{"type": "text", "text": "x"}] * 256}
    good = [
        [USER] * most,
        [many] * 16,
        [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
        *([one] for one in good_calls),
    ]
    refused = [{"role": "user", "content": [part]} for part in parts]
    return good, [
        [USER] * (most + 1),
        [many] * 17,
        {},
        "x" if name == "messages" else 7,
        [7],
        [[USER]],
    ] + [[message] for message in refused + bad_calls + bad]


def formats(schema: list[Any]) -> list[Any]:
    """Response formats of these schemas."""
    return [{"type": "json_schema", "json_schema": {"name": "x", "schema": one}} for one in schema]


def tools(schemas: list[Any]) -> list[Any]:
    """Lists of one tool with these parameters."""
    return [[{"type": "function", "function": {"name": "f", "parameters": one}}] for one in schemas]


TEMPLATE_ARGUMENTS: tuple[list[Any], list[Any]] = (
    [{"x": True}, {"x": 2**53}, {"x": "x" * 256}, {f"x{n}": 1 for n in range(16)}],
    [{"x": []}, {"x": {}}, {"x": "x" * 257}, {"x": 10**400}, {"a b": 1}, {"chat_template": "x"},
     {f"x{n}": 1 for n in range(17)}, 7, [], {"padding": "max_length", "max_length": 2**40},
     {"return_assistant_tokens_mask": True}],
)  # fmt: skip
CHECKED: dict[tuple[str, str], tuple[list[Any], list[Any]]] = {
    ("chat", "messages"): messages(
        "messages",
        MAX_MESSAGES,
        [{"role": 7}, {"content": "x"}, {"role": "assistant", "tool_calls": [{}]},
         *({"role": "assistant", "tool_calls": [{k: v for k, v in called("f", "{}").items()
                                                 if k != lacking}]}
           for lacking in called("f", "{}")),
         {"role": "assistant",
          "tool_calls": [{"id": "a", "type": "function", "function": {"arguments": "{}"}}]},
         {"role": "user", "content": 7}, {"role": "assistant", "tool_calls": [7]},
         {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}],
    ),
    ("responses", "input"): messages(
        "input",
        MAX_ITEMS,
        [{"type": "file_search_call"}, {"type": "item_reference", "id": "x"}, {"type": 7}, {},
         {"role": "x", "content": "x"}, {"role": "user"}, {"type": "function_call", "name": "f"},
         {"type": "message", "role": "user", "content": "x", "status": "x"},
         {"type": "function_call_output", "call_id": "a"},
         {"type": "function_call_output", "call_id": "a",
          "output": [{"type": "input_image", "image_url": "http://127.0.0.1/"}]},
         {"type": "reasoning", "summary": [{"type": "input_image", "image_url": "x"}]}],
    ),
    ("chat", "chat_template_kwargs"): TEMPLATE_ARGUMENTS,
    ("responses", "chat_template_kwargs"): TEMPLATE_ARGUMENTS,
    ("chat", "prompt"): PROMPTS,
    ("chat", "input"): PROMPTS,
    ("chat", "response_format"): (
        [{"type": "text"}, {"type": "json_object"}, *formats(SCHEMAS[0])],
        [7, {}, {"type": 7}, {"type": "x"}, {"type": "json_schema"}, *formats(SCHEMAS[1])],
    ),
    ("chat", "structured_outputs"): (
        [{"regex": "x" * MAX_PATTERN}, {"choice": ["x"] * 1_000}]
        + [{"json": schema} for schema in SCHEMAS[0] + SCHEMA_TEXTS[0]]
        + [{"structural_tag": text} for text in SCHEMA_TEXTS[0]],
        [7, {"regex": "x" * (MAX_PATTERN + 1)}, {"choice": ["x"] * 1_001}, {"choice": "x"},
         {"grammar": "x" * (1 << 15)}, {"_backend": "outlines"}, {"json_object": 1}]
        + [{"json": schema} for schema in SCHEMAS[1] + SCHEMA_TEXTS[1]]
        + [{"structural_tag": text} for text in SCHEMA_TEXTS[1]],
    ),
    ("chat", "tools"): (
        tools(SCHEMAS[0]),
        [7, [7], [{"type": "mcp"}], tools([{}])[0] * 129, *tools(SCHEMAS[1])],
    ),
    ("chat", "tool_choice"): (
        ["auto", {"type": "function", "function": {"name": "f"}}],
        ["any", 7, {"type": "mcp"}, {"type": "function", "function": {"name": "f" * 200}}],
    ),
    ("chat", "stream_options"): ([{"include_usage": True}], [7, {"x": 1}, {"include_usage": 1}]),
    ("responses", "tools"): (
        [[{"type": "function", "name": "f", "parameters": one}] for one in SCHEMAS[0]],
        [[{"type": "web_search"}], [{"type": "function"}]]
        + [[{"type": "function", "name": "f", "parameters": one}] for one in SCHEMAS[1]],
    ),
    ("responses", "tool_choice"): (["none", {"type": "function", "name": "f"}], ["x", {"type": 1}]),
    ("responses", "text"): (
        [{"format": {"type": "json_schema", "name": "x", "schema": one}} for one in SCHEMAS[0]],
        [{"format": {"type": "json_schema", "name": "x", "schema": one}} for one in SCHEMAS[1]],
    ),
    ("responses", "reasoning"): ([{"effort": "low"}], [{"effort": 1}, {"x": 1}, 7]),
    ("responses", "stream_options"): ([{"include_obfuscation": False}], [{"include_usage": True}]),
}  # fmt: skip


def edges(bound: Bound) -> tuple[list[Any], list[Any]]:
    """Values at the bound, and values above it or of another type."""
    match bound:
        case bounds.Text(most):
            return ["", "x" * most], ["x" * (most + 1), 7, ["x"], {}]
        case bounds.AnyText():
            return ["", "x" * 100_000], [7, ["x"], {}, True]
        case bounds.Whole(least, most):
            return [least, most], [least - 1, most + 1, 10**400, 1.5, "1", True, [1]]
        case bounds.Number(least, most):
            return [least, most, 0], [least - 1, most + 1, 10**400, "1", True, [1]]
        case bounds.Flag():
            return [True, False], [1, "true", []]
        case bounds.OneOf(values):
            return [*values], ["another", 7, [values[0]]]
        case bounds.ListOf(item, most, least):
            good, bad = edges(item)
            wrong = [[good[0]] * (most + 1), {}, 7, *([one] for one in bad)]
            return [[good[0]] * most, [good[-1]] * max(1, least)], wrong
        case bounds.MapOf(_, _, value, most):
            good, bad = edges(value)
            return (
                [{str(n): good[-1] for n in range(most)} if most > 16 else {"x": good[-1]}],
                [{str(n): good[-1] for n in range(most + 1)}, [], 7]
                + [{"1" if most > 16 else "x": one} for one in bad],
            )
        case bounds.Either(choices):
            found = [edges(choice) for choice in choices]
            bad = [one for one in found[-1][1] if not isinstance(one, str | bool | list)]
            return [one for good, _ in found for one in good], bad
        case _:
            raise AssertionError(f"{bound} needs cases of its own")


def cases() -> Iterator[tuple[str, str, bool, Any]]:
    """Every field of every route, with values that pass and values that do not."""
    for route, fields in (("chat", FIELDS), ("responses", RESPONSES_FIELDS)):
        for name, bound in fields.items():
            good, bad = CHECKED.get((route, name)) or edges(bound)
            yield from ((route, name, True, value) for value in good)
            yield from ((route, name, False, value) for value in bad)


@pytest.mark.parametrize("route", ["chat", "responses"])
def test_every_field_takes_what_is_at_its_bound_and_refuses_what_is_above_by_name(
    route: str,
) -> None:
    fields = FIELDS if route == "chat" else RESPONSES_FIELDS
    for _, name, good, value in (case for case in cases() if case[0] == route):
        data = json.dumps({"model": "medical", name: value}).encode()
        if good:
            parse_body(data, fields, 1 << 20)
            continue
        with pytest.raises(BadRequest) as caught:
            parse_body(data, fields)
        message = caught.value.message
        assert f"`{name}" in message or "values" in message or "number" in message, (
            name, str(value)[:100], message,
        )  # fmt: skip


def test_prompts_times_choices_are_bounded_together() -> None:
    body = parse_body(json.dumps({"model": "m", "prompt": ["x", "y"], "n": 16}).encode())
    assert (prompts(body), sequences(body)) == (2, 32)
    with pytest.raises(BadRequest, match=f"{MAX_SEQUENCES} answers at most"):
        parse_body(json.dumps({"model": "m", "prompt": [[5]] * 3, "n": MAX_CHOICES}).encode())
    chat = parse_body(json.dumps({"model": "m", "messages": [USER], "n": 3}).encode())
    assert (prompts(chat), sequences(chat)) == (1, 3)
    assert prompts({"prompt": "a", "input": ["x"] * 9}) == 9
    tokens = parse_body(json.dumps({"model": "m", "prompt": [1, 2, 3]}).encode())
    assert (prompts(tokens), sequences(tokens)) == (1, 1)


@pytest.mark.parametrize(
    "data",
    [
        b'{"model": "m", "user": "\\ud800"}', b'{"model": "m", "temperature": 1e999}',
        b'{"model": "m", "temperature": NaN}',
        b'{"model": "m", "max_tokens": 1' + b"0" * 400 + b"}",
        b'{"model": "m", "max_tokens": 1' + b"0" * 5000 + b"}", b"[" * 1_000_000, b"\xff\xfe{}",
        b'{"model": "m", "\\ud800": 1}', b'{"a":' * 10_000, b"7", b'"x"', b"null", b"",
        b'{"model": "m", "metadata": ' + b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH + b"}",
        b'{"model": "m", "prompt": [' + b"1," * MAX_VALUES + b"1]}",
        b'{"model": "m", "prompt": [' + b"[]," * MAX_VALUES + b"[]]}",
        b'{"model": "m", "prompt": [' + b'"\\\\",' * MAX_VALUES + b'""]}',
        b'{"model": "m", "prompt": "' + b'\\"[' * MAX_VALUES,
    ],
)  # fmt: skip
def test_what_is_no_sane_json_is_refused(data: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_body(data)


def test_brackets_and_commas_in_a_text_are_no_values() -> None:
    text = '[{,"\\' * MAX_VALUES
    body = parse_body(json.dumps({"model": "m", "prompt": text}).encode())
    assert body["prompt"] == text


def test_what_asks_for_nothing_is_left_out() -> None:
    asked = {
        "prompt_cache_key": "session-1", "verbosity": "low", "functions": None, "background": False,
        "function_call": None, "documents": None, "stop": None, "priority": 0,
        "modalities": ["text"], "prediction": {"type": "content", "content": "x"},
    }  # fmt: skip
    body = {"model": "m", "messages": [USER], "max_tokens": 5}
    assert parse_body(json.dumps(body | asked).encode()) == body
    for name in ("background", "functions", "priority", "modalities", "use_beam_search"):
        with pytest.raises(BadRequest, match=f"'{name}' is not served"):
            parse_body(json.dumps(body | {name: [1]}).encode())


def test_an_earlier_answer_among_the_items_gets_what_vllm_needs() -> None:
    """As @ai-sdk/openai sends its second turn."""
    said = {"role": "assistant", "content": [{"type": "output_text", "text": "Symptoms"}]}
    asked = {"role": "user", "content": [{"type": "input_text", "text": "and chills?"}]}
    body = parse_body(json.dumps({"model": "m", "input": [said, asked]}).encode(), RESPONSES_FIELDS)
    assert body["input"] == [
        {"type": "message", "role": "assistant", "id": "msg_0", "status": "completed",
         "content": [{"type": "output_text", "text": "Symptoms", "annotations": []}]},
        {"type": "message", **asked},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([], ""),
        ([{"type": "refusal", "refusal": "No."}], "No."),
        ([{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "b"}], "a\nb"),
    ],
)
def test_an_earlier_answer_is_one_part_of_text(parts: list[Any], text: str) -> None:
    """Of several, vLLM reads the first alone; it fails on none and on a refusal."""
    said = {"role": "assistant", "content": parts}
    body = parse_body(json.dumps({"model": "m", "input": [said]}).encode(), RESPONSES_FIELDS)
    assert body["input"][0]["content"] == [{"type": "output_text", "text": text, "annotations": []}]


def test_reasoning_is_one_part_of_text() -> None:
    parts = [{"type": "reasoning_text", "text": "a"}, {"type": "reasoning_text", "text": "b"}]
    item = {"type": "reasoning", "content": parts}
    body = parse_body(json.dumps({"model": "m", "input": [item]}).encode(), RESPONSES_FIELDS)
    assert body["input"][0]["content"] == [{"type": "reasoning_text", "text": "a\nb"}]


def test_a_member_that_clients_send_as_null_counts_as_absent() -> None:
    function = {"name": "f", "description": None, "strict": None}
    body = {"model": "m", "messages": [USER], "tools": [{"type": "function", "function": function}]}
    assert parse_body(json.dumps(body).encode())["tools"] == body["tools"]
    with pytest.raises(BadRequest, match=r"tools\[0\]\.function"):
        parse_body(json.dumps(body | {"tools": [{"type": "function", "function": None}]}).encode())


def test_members_of_messages_that_are_not_known_stay_outside() -> None:
    message = {
        "role": "assistant", "audio": {"id": "x"}, "provider": 1, "tool_calls": None,
        "content": [{"type": "text", "text": "x", "image_url": "http://127.0.0.1/"}],
    }  # fmt: skip
    body = parse_body(json.dumps({"model": "m", "messages": [message]}).encode())
    assert body["messages"] == [{"role": "assistant", "content": [{"type": "text", "text": "x"}]}]


def test_no_parameter_of_transformers_is_a_template_argument() -> None:
    from transformers import PreTrainedTokenizerBase as Base
    from transformers import PreTrainedTokenizerFast as Fast

    methods = (Base.apply_chat_template, Base.__call__, Base.encode, Fast._encode_plus)
    for method in methods:
        for name in inspect.signature(method).parameters:
            asked = {"model": "m", "chat_template_kwargs": {name: True}}
            with pytest.raises(BadRequest, match="not as what the server sets itself"):
                parse_body(json.dumps(asked).encode())


def test_a_body_that_drips_is_given_up() -> None:
    pieces = 0

    async def drip() -> Message:
        nonlocal pieces
        pieces += 1
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b" ", "more_body": True}

    with pytest.raises(SlowBody):
        asyncio.run(read_body(drip, None, 1 << 20, seconds=0.1))
    assert pieces < 20


def test_the_documented_bounds_are_the_bounds() -> None:
    assert table() in (ROOT / "docs" / "reference" / "request-bounds.md").read_text()


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "function", "json", "text", "name"])
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(sorted(FIELDS.keys() | RESPONSES_FIELDS.keys())), _VALUES))
def test_any_value_of_any_field_is_refused_or_bounded(body: dict[str, Any]) -> None:
    data = json.dumps({"model": "m", **body}).encode()
    for fields in (FIELDS, RESPONSES_FIELDS):
        try:
            parsed = parse_body(data, fields)
        except BadRequest:
            continue
        assert 1 <= sequences(parsed) <= MAX_SEQUENCES
        for name, value in parsed.items():
            if name != "store":
                fields[name].check(name, value)
