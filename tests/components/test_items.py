"""Items of `/v1/responses` that the gateway lets through fit vLLM's types at once."""

import contextlib
import json
from typing import Any

import pytest

from serving.request.body import parse_body
from serving.request.fields import RESPONSES_FIELDS

TEXTS: list[Any] = [
    {"type": kind, "refusal" if kind == "refusal" else "text": "x"}
    for kind in ("text", "refusal", "input_text", "output_text", "summary_text", "reasoning_text")
]
ITEMS = [
    *({"role": role, "content": "x"} for role in ("user", "assistant", "system", "developer")),
    *({"role": role, "content": TEXTS} for role in ("user", "assistant", "system", "developer")),
    {"role": "assistant", "content": []},
    {"role": "assistant", "content": TEXTS, "id": "msg_1", "status": "incomplete"},
    {"type": "message", "role": "user", "content": TEXTS, "status": "completed", "id": "x"},
    {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{"},
    {"type": "function_call", "call_id": "a", "name": "f", "arguments": "", "status": "completed"},
    {"type": "function_call_output", "call_id": "a", "output": "x"},
    {"type": "function_call_output", "call_id": "a", "output": TEXTS, "status": "incomplete"},
    {"type": "reasoning"},
    {"type": "reasoning", "summary": TEXTS, "content": TEXTS, "encrypted_content": "x", "id": "r"},
]  # fmt: skip


@pytest.mark.parametrize("item", ITEMS, ids=json.dumps)
def test_every_item_that_passes_is_one_of_vllms(item: dict[str, Any]) -> None:
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.entrypoints.openai.responses.utils import construct_input_messages
    from vllm.exceptions import VLLMValidationError

    data = json.dumps({"model": "m", "input": [item]}).encode()
    body = parse_body(data, RESPONSES_FIELDS)
    request = ResponsesRequest.model_validate(json.loads(json.dumps(body)))
    with contextlib.suppress(VLLMValidationError):  # a 400 that says what is wrong
        construct_input_messages(request_input=request.input)
