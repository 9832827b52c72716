"""A request's body: read with a bound, parsed, and cut down to what callers may ask of vLLM."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from starlette.types import Message, Receive

from registry.errors import BadRequest, TooLarge
from serving.errors import CallerLeft, SlowBody
from serving.request.bounds import Bound, InvalidField
from serving.request.fields import (
    ASKS_NOTHING,
    FIELDS,
    IGNORED,
    MAX_SEQUENCES,
    RESPONSES_FIELDS,
)
from serving.request.json_text import MAX_DEPTH, MAX_VALUES, has_at_most
from serving.request.messages import MESSAGES_FIELDS, NEEDED

BODY_SECONDS = 30.0
"""How long a caller may take to send a body."""
PROMPTS = ("prompt", "input", "text_1", "text_2", "queries", "documents")
"""Fields of which each item is a sequence of its own."""
MAX_HINTS = 32
MAX_HINT_BYTES = 16 << 10


async def read_body(
    receive: Receive, declared: int | None, limit: int, seconds: float = BODY_SECONDS
) -> bytes:
    """The whole body, never more than `limit` bytes of it in memory.

    declared: the Content-Length, if there was one. Raises `TooLarge` before reading what is
    declared too large, `SlowBody` if it takes more than `seconds`, and `CallerLeft` if the caller
    disconnects.
    """
    if declared is not None and declared > limit:
        raise _too_large(limit)
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise CallerLeft
                piece: bytes = message.get("body", b"")
                size += len(piece)
                if size > limit:
                    raise _too_large(limit)
                pieces.append(piece)
                if not message.get("more_body", False):
                    return b"".join(pieces)
    except TimeoutError as error:
        raise SlowBody(seconds) from error


def json_object(data: bytes, fields: Collection[str], values: int = MAX_VALUES) -> dict[str, Any]:
    """The body as an object without other fields; a field that is null counts as absent.

    values: how many values it may have. Raises `BadRequest`.
    """
    body = _object(data, values)
    for name in body:
        if name not in fields:
            raise _unknown(name)
    return body


def parse_body(
    data: bytes, fields: Mapping[str, Bound] = FIELDS, context: int = 0
) -> dict[str, Any]:
    """The body as an object whose fields may all be passed on, with a `model`.

    fields: those that the route has, and their bounds. context: the model's, in tokens; a prompt of
    token ids may have as many values more. Raises `BadRequest` that names what is wrong. A key that
    occurs twice counts once, for what is passed on is written anew from this object.
    """
    body = _object(data, MAX_VALUES + context)
    for name in list(body):
        if name in IGNORED or body[name] in ASKS_NOTHING.get(name, ()):
            del body[name]
        elif (bound := fields.get(name)) is None:
            raise _unknown(name)
        else:
            bound.check(name, body[name])
    if "model" not in body:
        raise InvalidField("model", "a string", "Name an adapter, such as medical/icd10-coder.")
    _check_logprobs(body)
    if (count := sequences(body)) > MAX_SEQUENCES:
        raise BadRequest(
            f"One request may ask for {MAX_SEQUENCES} answers at most, prompts times choices; this "
            f"one asks for {count}. Send several requests."
        )
    if fields is RESPONSES_FIELDS:
        body["store"] = False
    for name in NEEDED if fields is MESSAGES_FIELDS else ():
        if name not in body:
            raise InvalidField(name, fields[name])
    return body


def check_seed(body: dict[str, Any]) -> None:
    """No sampling by a seed. For engines on a CPU.

    vLLM 0.32 steps such a request's generator back whenever it has computed only part of the
    prompt. Generators on a CPU cannot step back, and the engine ends.
    """
    if "seed" in body and body.get("temperature", 1) != 0:
        raise BadRequest(
            "This server runs on a CPU, where vLLM cannot sample by a `seed` safely. Leave it out, "
            "or set `temperature` to 0: then every answer to the same prompt is the same."
        )


def prompts(body: dict[str, Any]) -> int:
    """How many prompts a parsed body has: those of `prompt`, `input` or a list of texts to score,
    or the one of a chat."""
    given = [body.get(name) for name in PROMPTS]
    lists = [one for one in given if isinstance(one, list) and one]
    return max((len(one) for one in lists if isinstance(one[0], str | list)), default=1)


def sequences(body: dict[str, Any]) -> int:
    """How many answers a parsed body asks the engine for: its prompts times its choices."""
    choices = max(body.get("n", 1), body.get("best_of", 1))
    return prompts(body) * int(choices)


def parse_hint(data: bytes) -> list[str]:
    """The names in `{"models": [...]}` or `{"model": ...}`; raises `BadRequest`."""
    body = json_object(data, ("model", "models"))
    models = [body["model"]] if body.keys() == {"model"} else body.get("models")
    if not isinstance(models, list) or not all(isinstance(name, str) for name in models):
        raise BadRequest('Send {"models": ["medical/icd10-coder", ...]}.')
    if len(models) > MAX_HINTS:
        raise BadRequest(f"At most {MAX_HINTS} models can be hinted at once. Send fewer.")
    return models


def _object(data: bytes, values: int) -> dict[str, Any]:
    body = _decode(data, values)
    if not isinstance(body, dict):
        raise BadRequest("The body is not a JSON object. Send one.")
    return {name: value for name, value in body.items() if value is not None}


def _unknown(name: str) -> BadRequest:
    return BadRequest(f"The field {name[:60]!r} is not served here. Leave it out.")


def _decode(data: bytes, values: int) -> Any:
    """The JSON in `data`, if it has at most `values` values and nests at most `MAX_DEPTH` deep.

    What can be read can be written again: halves of surrogate pairs, NaN and infinity are refused.
    """
    if not has_at_most(values, data):
        raise BadRequest(f"The body has more than {values:,} values. Send fewer.")
    try:
        body = msgspec.json.decode(data)
    except RecursionError as error:
        raise _too_deep() from error
    except (ValueError, msgspec.MsgspecError) as error:
        raise BadRequest(
            "The body is not JSON in UTF-8, or has a number out of range. Send a JSON object."
        ) from error
    level = [body]
    for _ in range(MAX_DEPTH + 1):
        level = [node for node in level if isinstance(node, dict | list)]
        if not level:
            return body
        level = [
            inner for node in level for inner in (node.values() if isinstance(node, dict) else node)
        ]
    raise _too_deep()


def _check_logprobs(body: dict[str, Any]) -> None:
    """No log-probabilities of a prompt.

    vLLM 0.32 computes them for a prompt's tokens by the adapters of the requests in the batch:
    where the two differ in number its engine dies, and where not, adapters may be mixed up.
    """
    sought = [body.get("logprobs"), body.get("top_logprobs")]
    if body.get("echo") and any(not (value is None or value is False) for value in sought):
        raise BadRequest(
            "Log-probabilities of a prompt are not served here: with adapters, vLLM cannot compute "
            "them safely. Leave out one of `echo` and `logprobs`."
        )


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


def _too_deep() -> BadRequest:
    return BadRequest(f"The body nests more than {MAX_DEPTH} deep. Send a flatter one.")
