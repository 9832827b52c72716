"""`/v1/messages` takes text and function calls within bounds, and refuses everything else."""

import json
from typing import Any

import pytest

from registry.errors import BadRequest, Forbidden
from serving.errors import DeadlineExceeded, LimitReached
from serving.grammars.wanted import grammars
from serving.request.body import parse_body
from serving.request.charges import most_tokens
from serving.request.envelopes import error_body, error_event, translated
from serving.request.messages import MESSAGES_FIELDS, constraints

MESSAGES = "/v1/messages"
USER = {"role": "user", "content": "x"}
ASKED = {"model": "m", "max_tokens": 5, "messages": [USER]}
SCHEMA = {"type": "object", "properties": {"code": {"type": "string"}}}
TOOL = {"name": "look_up", "description": "x", "input_schema": SCHEMA}
TEXT = {"type": "text", "text": "x"}
IMAGE = {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/"}}


def parsed(**fields: Any) -> dict[str, Any]:
    return parse_body(json.dumps(ASKED | fields).encode(), MESSAGES_FIELDS)


def said(*blocks: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(blocks)}]}


@pytest.mark.parametrize(
    "fields",
    [
        {"system": "x"}, {"system": [{"type": "text", "text": "x"}]}, {"stop_sequences": ["x"] * 4},
        {"temperature": 1.0}, {"top_p": 0.5}, {"top_k": 5}, {"stream": True},
        {"metadata": {"user_id": "x" * 512}}, {"metadata": None}, {"tools": [TOOL]}, {"tools": []},
        {"tools": [{**TOOL, "type": "custom", "strict": True}]}, {"tool_choice": {"type": "any"}},
        {"tool_choice": {"type": "tool", "name": "x", "disable_parallel_tool_use": True}},
        {"thinking": {"type": "disabled"}}, {"thinking": {"type": "adaptive"}},
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        {"output_config": {"effort": "low"}}, {"service_tier": "auto"},
        said(TEXT),
        said({"type": "tool_result", "tool_use_id": "a"}),
        said({"type": "tool_result", "tool_use_id": "a", "content": "x", "is_error": True}),
        said({"type": "tool_result", "tool_use_id": "a", "content": [TEXT]}),
        said({"type": "tool_use", "id": "a", "name": "f", "input": {"x": [1]}}, role="assistant"),
        said({"type": "thinking", "thinking": "x", "signature": "y"}, role="assistant"),
        said({"type": "redacted_thinking", "data": "x"}, role="assistant"),
        said({"type": "text", "text": "x"}, role="system"),
    ],
)  # fmt: skip
def test_what_anthropics_clients_send_is_passed_on(fields: dict[str, Any]) -> None:
    wanted = {name: value for name, value in fields.items() if value not in (None, [])}
    body = parsed(**json.loads(json.dumps(fields)))
    for tool in wanted.get("tools", ()):
        tool.pop("type", None)
    assert body == ASKED | wanted


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"), ({"messages": None}, "messages"),
        ({"messages": []}, "messages"), ({"messages": [USER] * 2_049}, "messages"),
        ({"messages": [7]}, "messages"), ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "developer", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 257}]},
         "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 250}] * 17},
         "messages"),
        (said(IMAGE), "messages"), (said("x"), "messages"),
        (said({"type": "document"}), "messages"),
        (said({"type": ["text"], "text": "x"}), "messages"),
        (said({"type": "text", "text": 7}), "messages"), (said({"type": "text"}), "messages"),
        (said({"type": "tool_use", "id": "a", "name": "f", "input": {}}), "messages"),
        (said({"type": "tool_use", "id": "a", "name": "f", "input": 7}, role="assistant"),
         "messages"),
        (said({"type": "tool_result", "tool_use_id": "a", "content": [IMAGE]}), "messages"),
        (said({"type": "tool_result", "tool_use_id": "a", "content": [{"type": "tool_reference"}]}),
         "messages"),
        (said({"type": "tool_addition", "tool": {}}, role="system"), "messages"),
        (said({"type": "server_tool_use"}, role="assistant"), "messages"),
        ({"system": 7}, "system"), ({"system": [IMAGE]}, "system"),
        ({"temperature": 101}, "temperature"), ({"stop_sequences": ["x"] * 5}, "stop_sequences"),
        ({"metadata": {"user_id": "x" * 513}}, "metadata"), ({"metadata": {"x": "y"}}, "metadata"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "tools"), ({"tools": [TOOL] * 129}, "tools"),
        ({"tools": [{**TOOL, "input_schema": {"enum": [0] * 5_001}}]}, "tools"),
        ({"tools": [7]}, "tools"), ({"tool_choice": "auto"}, "tool_choice"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1_024}}, "thinking"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"enum": [0] * 5_001}}}},
         "output_config"),
    ],
)  # fmt: skip
def test_what_is_not_within_a_bound_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(BadRequest, match=f"`{named}"):
        parsed(**fields)


@pytest.mark.parametrize(
    "name",
    ["cache_salt", "kv_transfer_params", "ec_transfer_params", "vllm_xargs", "mcp_servers",
     "container", "watermarking", "mm_payload", "return_mm_kwargs", "n", "prompt",
     "context_management"],
)  # fmt: skip
def test_what_would_run_or_remember_something_is_no_field(name: str) -> None:
    with pytest.raises(BadRequest, match=f"'{name}' is not served"):
        parsed(**{name: {"x": 1}})


def test_marks_of_a_cache_are_left_out_for_the_prefix_cache_needs_none() -> None:
    cached = {"cache_control": {"type": "ephemeral"}}
    body = parsed(
        system=[{"type": "text", "text": "s", **cached}],
        tools=[{**TOOL, **cached, "eager_input_streaming": True}],
        speed="standard",
        **cached,
        messages=[{"role": "user", "content": [{"type": "text", "text": "x", **cached}]}],
    )
    text = json.dumps(body)
    assert not any(name in text for name in ("cache_control", "eager_input", "speed"))


def test_a_later_tool_is_refused_under_its_own_name() -> None:
    with pytest.raises(BadRequest, match=r"`tools\[1\]"):
        parsed(tools=[TOOL, {**TOOL, "defer_loading": True}])


def test_schemas_and_tools_are_tried_as_vllm_will_have_them() -> None:
    wanted = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
    text = json.dumps(SCHEMA, separators=(",", ":"))
    assert grammars(constraints(parsed(**wanted))) == [("json", text)]
    assert grammars(constraints(parsed(tools=[TOOL]))) == []
    assert grammars(constraints(parsed(tools=[{**TOOL, "strict": True}]))) == [("json", text)]
    for choice in ({"type": "any"}, {"type": "tool", "name": "look_up"}):
        assert grammars(constraints(parsed(tools=[TOOL], tool_choice=choice))) == [("json", text)]
    none = {"type": "none"}
    assert grammars(constraints(parsed(tools=[{**TOOL, "strict": True}], tool_choice=none))) == []


def test_the_answers_length_is_charged_before_it_is_made() -> None:
    assert most_tokens(parsed(max_tokens=100), 400, 2_048) == 200


def test_errors_are_in_anthropics_envelope_there_and_in_openais_elsewhere() -> None:
    refused = Forbidden("No.")
    assert error_body(MESSAGES, refused) == {
        "type": "error",
        "error": {"type": "permission_error", "message": "No.", "code": "forbidden"},
    }
    assert error_body("/v1/responses", refused)["error"]["type"] == "permission_error"
    assert "type" not in error_body("/v1/responses", refused)
    late = error_event(MESSAGES, DeadlineExceeded(1.0))
    assert late.startswith(b'event: error\ndata: {"type": "error", "error": {"type": "timeout_')
    assert error_event("/v1/completions", DeadlineExceeded(1.0)).startswith(b'data: {"error"')
    limit = error_body(MESSAGES, LimitReached("x", 1.0))
    assert limit["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (400, b'{"error": {"message": "too long", "type": "BadRequestError", "code": 400}}',
         "invalid_request_error", "too long"),
        (404, b'{"type": "error", "error": {"type": "NotFoundError", "message": "no"}}',
         "not_found_error", "no"),
        (500, b"Internal Server Error", "api_error", "The request failed. Try again."),
        (422, b'{"detail": []}', "invalid_request_error", "The request failed. Try again."),
    ],
)  # fmt: skip
def test_vllms_errors_get_anthropics_envelope(
    status: int, body: bytes, kind: str, message: str
) -> None:
    assert json.loads(translated(status, body)) == {
        "type": "error", "error": {"type": kind, "message": message}
    }  # fmt: skip
