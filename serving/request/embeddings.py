"""Answers of `/v1/embeddings`: whether their numbers are finite. Pure.

In the encoding `float` NaN cannot be written, which is an error there; in `base64` it would pass
for an answer.
"""

import base64
from typing import Any

import msgspec
import numpy as np


class _Item(msgspec.Struct):
    embedding: Any = None


class _Answer(msgspec.Struct):
    data: list[_Item] = []


def finish(answer: bytes) -> bytes | None:
    """An answer as its caller gets it; None if it has NaN."""
    return answer if is_finite(answer) else None


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
