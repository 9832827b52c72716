"""Requests to adapters with a classification head: their fields, their cost, and their answers.

vLLM names labels after the base model, which knows none of an adapter's, so `label` is set here.
`messages` are not taken: a head is trained on plain texts, and a chat template would change them.
"""

import json
from collections.abc import Mapping
from typing import Any

from adapters.heads import Head
from registry.errors import BadRequest
from registry.model.catalog import Version
from serving.errors import WrongTask
from serving.request.body import sequences
from serving.request.bounds import AnyText, Bound, Either, Flag, ListOf, OneOf, Text, Whole
from serving.request.charges import BYTES_PER_TOKEN
from serving.request.fields import MAX_SEQUENCES, PROMPT

CLASSIFY = "/classify"
RERANK = ("/rerank", "/v1/rerank", "/v2/rerank")
SCORE = ("/score", "/v1/score")
_INT32 = 2**31 - 1
_TEXTS = Either((AnyText(), ListOf(AnyText(), MAX_SEQUENCES, least=1)))
_COMMON: Mapping[str, Bound] = {
    "model": Text(512),
    "user": Text(512),
    "use_activation": Flag(),
    "truncate_prompt_tokens": Whole(-1, _INT32),
    "truncation_side": OneOf(("left", "right")),
}
CLASSIFY_FIELDS: Mapping[str, Bound] = {**_COMMON, "input": PROMPT, "add_special_tokens": Flag()}
"""The fields of `/classify`."""
SCORE_FIELDS: Mapping[str, Bound] = {
    **_COMMON, "text_1": _TEXTS, "text_2": _TEXTS, "queries": _TEXTS, "documents": _TEXTS
}  # fmt: skip
"""The fields of `/score`: a text and others, or as many pairs."""
RERANK_FIELDS: Mapping[str, Bound] = {
    **_COMMON, "query": AnyText(), "documents": _TEXTS, "top_n": Whole(0, _INT32)
}  # fmt: skip
"""The fields of `/rerank`."""


def head_at(path: str, version: Version | None, base: str) -> Head:
    """The head that answers at `path`.

    Raises `BadRequest` for the base model, which has none, and `WrongTask` for a head of several
    labels where one number is wanted.
    """
    if version is None or version.facts.head is None:
        raise BadRequest(
            f"The base model {base!r} has no classification head. Name an adapter as `model`."
        )
    head = version.facts.head
    if path != CLASSIFY and head.size > 1:
        raise WrongTask(
            f"{version.ref} has {head.size} labels, and {path} needs a head with one score. Use "
            f"{CLASSIFY}."
        )
    return head


def most_tokens(body: dict[str, Any], size: int, longest: int) -> int:
    """The most tokens that the texts of a request may have together, estimated.

    size: bytes of the body. longest: tokens of the longest sequence that the engine takes. A query
    is computed again with each text.
    """
    given, count = None if "messages" in body else body.get("input"), sequences(body)
    if isinstance(given, list) and not isinstance(given[0], str):
        asked = sum(len(one) if isinstance(one, list) else 1 for one in given)
    else:
        again = max(_repeated(body.get(name)) for name in ("query", "queries", "text_1"))
        asked = (size + again * (count - 1)) // BYTES_PER_TOKEN + count
    return int(min(asked, count * longest))


def _repeated(query: str | list[str] | None) -> int:
    """Bytes of a query that is asked with each text: one alone, in a list or not."""
    if isinstance(query, list):
        query = query[0] if len(query) == 1 else None
    return len((query or "").encode())


def finish(path: str, head: Head, answer: bytes) -> bytes:
    """An answer at `path` as its caller gets it."""
    return labelled(answer, head.labels) if path == CLASSIFY and head.labels else answer


def labelled(body: bytes, labels: tuple[str, ...]) -> bytes:
    """An answer of `/classify` with the adapter's own labels."""
    answer = json.loads(body)
    for item in answer["data"]:
        likeliest = max(range(len(item["probs"])), key=item["probs"].__getitem__)
        item["label"] = labels[likeliest]
    answer["labels"] = labels
    return json.dumps(answer).encode()
