"""Answers of `/v1/embeddings`: one with NaN is noted, since no statistics of vLLM tell it.

vLLM counts NaN in the logits of requests that write; an embedding has none. In the encoding `float`
NaN cannot be written, which is an error there; in `base64` it would pass for an answer.
"""

import base64
from typing import Any

import msgspec
import numpy as np
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.request.classification import NAN, note_nan


class _Item(msgspec.Struct):
    embedding: Any = None


class _Answer(msgspec.Struct):
    data: list[_Item] = []


class Embedded:
    """vLLM's application, asked for embeddings."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the answer on whole; one with NaN is noted under the request's id before its end."""
        start: Message = {}
        body = b""

        async def whole(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            body += message.get("body", b"")
            if message.get("more_body", False):
                return
            if not is_finite(body) if start["status"] == 200 else NAN in body:
                note_nan(scope)
            await send(start)
            await send({"type": "http.response.body", "body": body})

        try:
            await self._app(scope, receive, whole)
        except ValueError as error:
            if NAN in str(error).encode():
                note_nan(scope)
            raise


def is_finite(answer: bytes) -> bool:
    """Whether the embeddings in base64 are finite numbers; others always are."""
    if b'"embedding":"' not in answer:
        return True
    try:
        items = msgspec.json.decode(answer, type=_Answer).data
        texts = [item.embedding for item in items if isinstance(item.embedding, str)]
        return all(np.isfinite(np.frombuffer(base64.b64decode(t), "<f4")).all() for t in texts)
    except (ValueError, msgspec.MsgspecError):
        return False
