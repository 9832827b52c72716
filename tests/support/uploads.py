"""The files of an upload in memory: a valid adapter's for `TINY`, changed as a test says."""

import io
import json
from dataclasses import dataclass
from typing import Any

from safetensors.numpy import save

from adapters.admission import AdapterFile, admit
from adapters.base_model import BaseModel
from tests.support.adapters import CARD, TINY, config, tensors

CONFIG, WEIGHTS, README = "adapter_config.json", "adapter_model.safetensors", "README.md"


@dataclass
class Bytes:
    """A file in memory; `claimed` lets it seem larger than it is."""

    data: bytes
    claimed: int | None = None

    @property
    def size(self) -> int:
        return len(self.data) if self.claimed is None else self.claimed

    def open(self) -> io.BytesIO:
        return io.BytesIO(self.data)


def configured(**changes: Any) -> dict[str, bytes]:
    """The configuration with other values."""
    return {CONFIG: json.dumps(config(**changes)).encode()}


def files(changes: dict[str, Any]) -> dict[str, AdapterFile]:
    """A valid upload with `changes`: files by name, as bytes, or None to remove one."""
    given = {
        CONFIG: json.dumps(config()).encode(),
        WEIGHTS: save(tensors()),
        README: CARD.encode(),
        **changes,
    }
    return {
        name: data if isinstance(data, Bytes) else Bytes(data)
        for name, data in given.items()
        if data is not None
    }


def refusals(changes: dict[str, Any], base: BaseModel = TINY) -> str:
    """Everything that admission says against the upload, with its remedies; empty if admitted."""
    return "\n".join(str(problem) for problem in admit(files(changes), base).problems)
