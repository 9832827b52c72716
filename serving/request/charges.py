"""What a request may cost at most, before vLLM says what it did cost. Pure."""

from typing import Any

from serving.request.body import sequences

BYTES_PER_TOKEN = 4
"""Bytes of a body that are taken for one token of its prompt; usual for English text."""
OUTPUT_FIELDS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


def most_tokens(body: dict[str, Any], size: int, longest: int) -> int:
    """The most tokens that prompts and answers may have together, estimated.

    size: bytes of the body. longest: tokens of the longest sequence that the engine takes.
    """
    counts = [body[name] for name in OUTPUT_FIELDS if type(body.get(name)) is int]
    # Which of them counts, and whether the prompt or the messages do, is the route's affair.
    answer = min(longest, max((count for count in counts if count > 0), default=longest))
    given = None if "messages" in body else body.get("prompt")
    if isinstance(given, list) and _is_tokens(given):
        asked = len(given)
    elif isinstance(given, list) and all(isinstance(p, list) for p in given):
        asked = sum(len(prompt) for prompt in given)
    else:
        asked = size // BYTES_PER_TOKEN
    count = sequences(body)
    return int(min(asked + count * answer, count * longest))


def _is_tokens(prompt: list[Any]) -> bool:
    return bool(prompt) and all(type(token) is int for token in prompt)
