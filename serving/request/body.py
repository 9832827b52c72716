"""A request's body: read with a bound, parsed, and cut down to what callers may ask of vLLM."""

import json
from collections.abc import Collection
from typing import Any

from starlette.types import Message, Receive

from registry.errors import BadRequest, TooLarge

FIELDS = frozenset(
    (
        # OpenAI's
        "messages", "prompt", "model", "stream", "stream_options", "n", "best_of", "echo", "suffix",
        "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "seed",
        "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs",
        "response_format", "tools", "tool_choice", "parallel_tool_calls", "user", "metadata",
        "store", "service_tier", "reasoning_effort", "safety_identifier",
        "input", "encoding_format", "dimensions",
        # vLLM's, which only shape the sampling of this request
        "top_k", "min_p", "min_tokens", "repetition_penalty", "length_penalty", "ignore_eos",
        "stop_token_ids", "include_stop_str_in_output", "skip_special_tokens",
        "spaces_between_special_tokens", "bad_words", "allowed_token_ids", "prompt_logprobs",
        "structured_outputs", "add_generation_prompt", "continue_final_message",
        "return_token_ids", "return_tokens_as_token_ids", "truncate_prompt_tokens",
    )
)  # fmt: skip
"""What may be asked. vLLM knows more: templates that run (`chat_template`), files and URLs that it
fetches, embeddings that it unpickles, other requests' ids, transfer of caches. Those stay inside,
and so does whatever a later vLLM adds until somebody has judged it."""

RESPONSES_FIELDS = frozenset(
    (
        "include", "input", "instructions", "max_output_tokens", "metadata", "model", "logit_bias",
        "parallel_tool_calls", "presence_penalty", "frequency_penalty", "reasoning", "service_tier",
        "store", "stream", "temperature", "text", "tool_choice", "tools", "top_k", "top_logprobs",
        "top_p", "min_p", "truncation", "user", "safety_identifier",
    )
)  # fmt: skip
"""What may be asked of `/v1/responses`. Nothing is kept between two requests, so what refers to
an earlier one (`previous_response_id`, `conversation`) or asks for a later look (`background`) is
not served."""

PARTS = frozenset(("text", "refusal", "input_text", "output_text"))
ITEMS = frozenset(("message", "function_call", "function_call_output", "reasoning"))
MAX_CHOICES = 16
MAX_HINTS = 32
MAX_HINT_BYTES = 16 << 10


async def read_body(receive: Receive, declared: int | None, limit: int) -> bytes:
    """The whole body, never more than `limit` bytes of it in memory.

    declared: the Content-Length, if there was one. Raises `TooLarge` before reading what is
    declared too large, and `BadRequest` if the caller left.
    """
    if declared is not None and declared > limit:
        raise _too_large(limit)
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("The connection closed inside the request. Send it again.")
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)


def json_object(data: bytes, fields: Collection[str]) -> dict[str, Any]:
    """The body as an object without other fields; raises `BadRequest`."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadRequest("The body is not JSON. Send a JSON object.") from error
    if not isinstance(body, dict):
        raise BadRequest("The body is not a JSON object. Send one.")
    unknown = sorted(body.keys() - frozenset(fields))
    if unknown:
        raise BadRequest(f"The field {unknown[0][:60]!r} is not served here. Leave it out.")
    return body


def parse_body(data: bytes, fields: frozenset[str] = FIELDS) -> dict[str, Any]:
    """The body as an object whose fields may all be passed on, with a `model`.

    Raises `BadRequest` that names what is wrong. A key that occurs twice counts once, for what is
    passed on is written anew from this object.
    """
    body = json_object(data, fields)
    if not isinstance(body.get("model"), str):
        raise BadRequest("`model` is missing. Name an adapter, such as medical/icd10-coder.")
    for field in ("n", "best_of"):
        count = body.get(field)
        if count is not None and (type(count) is not int or not 1 <= count <= MAX_CHOICES):
            raise BadRequest(f"`{field}` must be 1 to {MAX_CHOICES}. Ask for fewer answers.")
    _check_tools(body.get("tools"))
    _check_logprobs(body)
    if fields is RESPONSES_FIELDS:
        _check_items(body.get("input"))
        body["store"] = False
    else:
        _check_messages(body.get("messages"))
    return body


def parse_hint(data: bytes) -> list[str]:
    """The names in `{"models": [...]}`; raises `BadRequest`."""
    try:
        models = json.loads(data)["models"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadRequest('Send {"models": ["medical/icd10-coder", ...]}.') from error
    if not isinstance(models, list) or not all(isinstance(name, str) for name in models):
        raise BadRequest("`models` is not a list of names. Send a list.")
    if len(models) > MAX_HINTS:
        raise BadRequest(f"At most {MAX_HINTS} models can be hinted at once. Send fewer.")
    return models


def _check_messages(messages: Any) -> None:
    """Only text: anything else would make the server fetch or decode what a stranger names."""
    if messages is None:
        return
    if not isinstance(messages, list):
        raise BadRequest("`messages` is not a list. Send a list of messages.")
    for message in messages:
        _check_content(message)


def _check_items(items: Any) -> None:
    """The same for the items of `/v1/responses`."""
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict) and item.get("type", "message") not in ITEMS:
            raise BadRequest("Only messages and function calls are served here. Send those.")
        _check_content(item)


def _check_content(message: Any) -> None:
    content = message.get("content") if isinstance(message, dict) else None
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict) or part.get("type") not in PARTS:
            raise BadRequest("Only text is served here. Send content parts of type text.")


def _check_logprobs(body: dict[str, Any]) -> None:
    """No log-probabilities of a prompt.

    vLLM 0.32 computes them for a prompt's tokens by the adapters of the requests in the batch:
    where the two differ in number its engine dies, and where not, adapters may be mixed up.
    """
    sought = [body.get("logprobs"), body.get("top_logprobs")]
    if body.get("prompt_logprobs") is not None or (
        body.get("echo") and any(not (value is None or value is False) for value in sought)
    ):
        raise BadRequest(
            "Log-probabilities of a prompt are not served here: with adapters, vLLM cannot compute "
            "them safely. Leave out `prompt_logprobs`, or one of `echo` and `logprobs`."
        )


def _check_tools(tools: Any) -> None:
    """Only functions, which the caller runs: other tools would run something here, or far away."""
    for tool in tools if isinstance(tools, list) else ():
        if not isinstance(tool, dict) or tool.get("type") != "function":
            raise BadRequest("Only tools of type function are served here. Leave others out.")


def replay(data: bytes, receive: Receive) -> Receive:
    """A `receive` that hands out `data` once, then listens for the caller to disconnect."""
    handed_out = False

    async def receive_again() -> Message:
        nonlocal handed_out
        if handed_out:
            return await receive()
        handed_out = True
        return {"type": "http.request", "body": data, "more_body": False}

    return receive_again


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is above the limit of {limit} bytes. Send a shorter prompt.")
