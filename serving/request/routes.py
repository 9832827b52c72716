"""The routes that make answers: what each one's requests may have, and how vLLM answers there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from serving.request import classification, embeddings
from serving.request.bounds import Bound
from serving.request.charges import most_tokens
from serving.request.classification import (
    CLASSIFY,
    CLASSIFY_FIELDS,
    RERANK,
    RERANK_FIELDS,
    SCORE,
    SCORE_FIELDS,
)
from serving.request.envelopes import MESSAGES
from serving.request.fields import FIELDS, RESPONSES_FIELDS
from serving.request.messages import MESSAGES_FIELDS, constraints

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
EMBEDDINGS = "/v1/embeddings"

Body = dict[str, Any]


def _same(body: Body) -> Body:
    return body


def _user(body: Body) -> Any:
    return body.get("user")


def _anthropics_user(body: Body) -> Any:
    return body.get("metadata", {}).get("user_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """One route of vLLM's server."""

    path: str
    fields: Mapping[str, Bound]
    """Fields that a body may have, and their bounds."""
    id_prefix: str
    """What vLLM writes before the id that it is given."""
    classifies: bool = False
    """Whether a server that classifies has it; the others are of a server that writes."""
    limit: str | None = None
    """The field that bounds an answer's tokens, where it has one."""
    end: bytes = b"data: [DONE]"
    """What begins the event that says why a stream ends."""
    reports_usage: bool = False
    """Whether its streams report their usage at the end without being asked."""
    takes_rank: bool = False
    """Whether vLLM sends a request to the data-parallel rank that a header names; elsewhere it
    chooses one itself."""
    most_tokens: Callable[[Body, int, int], int] = most_tokens
    """The most tokens that a request may use, of its body, its size and the longest sequence."""
    user: Callable[[Body], Any] = _user
    """Whom the caller names as its own user."""
    constraints: Callable[[Body], Body] = _same
    """A body's schemas and tools in the words of chat completions."""
    finish: Callable[[bytes], bytes | None] | None = None
    """Makes of a pooled answer what its caller gets; None where vLLM's answer is passed on."""


ROUTES: Mapping[str, Route] = {
    route.path: route
    for route in (
        Route(path=CHAT, fields=FIELDS, id_prefix="chatcmpl-", limit="max_completion_tokens",
              takes_rank=True),
        Route(path=COMPLETIONS, fields=FIELDS, id_prefix="cmpl-", limit="max_tokens",
              takes_rank=True),
        Route(path=RESPONSES, fields=RESPONSES_FIELDS, id_prefix="resp_",
              limit="max_output_tokens", end=b"event: response.completed", reports_usage=True),
        Route(path=MESSAGES, fields=MESSAGES_FIELDS, id_prefix="chatcmpl-", limit="max_tokens",
              end=b"event: message_delta", reports_usage=True, takes_rank=True,
              user=_anthropics_user, constraints=constraints),
        Route(path=EMBEDDINGS, fields=FIELDS, id_prefix="embd-", finish=embeddings.finish,
              most_tokens=classification.most_tokens),
        *(
            Route(path=path, fields=fields, id_prefix=prefix, classifies=True,
                  most_tokens=classification.most_tokens)
            for paths, fields, prefix in (
                ((CLASSIFY,), CLASSIFY_FIELDS, "classify-"),
                (SCORE, SCORE_FIELDS, "score-"),
                (RERANK, RERANK_FIELDS, "score-"),
            )
            for path in paths
        ),
    )
}  # fmt: skip
"""All of them, by path."""
