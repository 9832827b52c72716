"""One adapter folder as some tool writes it, what vLLM answers to it, and what admission must."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from adapters.base_model import BaseModel
from tests.support.adapters import CARD

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
PREFIX = "base_model.model."
Array = NDArray[np.float32]
Named = dict[str, Array]

Answer = Literal["serves", "ignores", "refuses"]
"""What vLLM does: applies every tensor, loads the adapter but leaves tensors out without a word, or
refuses to load it."""


def _decoder(layers: int, hidden: int = 64, inner: int = 128, kv: int = 32) -> dict[str, Any]:
    shapes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    return {
        f"model.layers.{layer}.{name}": shape
        for layer in range(layers)
        for name, shape in shapes.items()
    }


LLAMA = BaseModel("tiny", "0" * 64, _decoder(2), ("org/Tiny-Llama", "unsloth/tiny-bnb-4bit"))
"""The model of `tests.support.tiny_model`, as `lorary base add` describes it."""
BIGGER = BaseModel("bigger", "1" * 64, _decoder(4, 128, 256, 64))
PHI = BaseModel(
    "tiny-phi",
    "2" * 64,
    {
        f"model.layers.{layer}.{name}": shape
        for layer in range(2)
        for name, shape in {
            "self_attn.qkv_proj": (128, 64),
            "self_attn.o_proj": (64, 64),
            "mlp.gate_up_proj": (256, 64),
            "mlp.down_proj": (64, 128),
        }.items()
    },
)
"""A model whose files hold query, key and value as one matrix."""
EXPERTS = BaseModel(
    "tiny-moe",
    "3" * 64,
    {
        "model.layers.0.self_attn.q_proj": (64, 64),
        "model.layers.0.self_attn.k_proj": (32, 64),
        "model.layers.0.self_attn.v_proj": (32, 64),
        "model.layers.0.self_attn.o_proj": (64, 64),
        "model.layers.0.block_sparse_moe.gate": (2, 64),
    }
    | {
        f"model.layers.0.block_sparse_moe.experts.{expert}.{name}": shape
        for expert in range(2)
        for name, shape in {"w1": (128, 64), "w2": (64, 128), "w3": (128, 64)}.items()
    },
)
"""A mixture of two experts."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A folder. Without `says` admission accepts it; else some refusal holds these words."""

    tool: str
    shape: str
    vllm: Answer
    says: str = ""
    why: str = ""
    """The reason for refusing what vLLM serves."""
    config: Mapping[str, Any] | bytes | None
    tensors: Mapping[str, Array] | bytes | None
    dtype: str = "F32"
    pickled: bool = False
    """The tensors are in adapter_model.bin, as torch saves them."""
    extra: Mapping[str, bytes] = field(default_factory=dict)
    base: BaseModel = LLAMA
    classifies: bool = False
    """Whether `vllm` is what an engine that classifies answers."""

    def __str__(self) -> str:
        return f"{self.tool}: {self.shape}"

    def files(self) -> dict[str, bytes]:
        """The folder's content."""
        files = {"README.md": CARD.encode(), **self.extra}
        if self.config is not None:
            given = self.config
            files[CONFIG] = given if isinstance(given, bytes) else json.dumps(given).encode()
        if self.pickled:
            files[PICKLED] = b"PK\x03\x04"  # admission goes by the name; `write` saves the tensors
        elif self.tensors is not None:
            files[WEIGHTS] = (
                self.tensors
                if isinstance(self.tensors, bytes)
                else stored(self.tensors, self.dtype)
            )
        return files

    def write(self, directory: Path) -> Path:
        """The folder, on disk."""
        for name, data in self.files().items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(data)
        if self.pickled and isinstance(self.tensors, Mapping):
            import torch

            tensors = {name: torch.from_numpy(array) for name, array in self.tensors.items()}
            torch.save(tensors, directory / PICKLED)
        return directory


def stored(tensors: Mapping[str, Any], dtype: str = "F32") -> bytes:
    """A safetensors file whose tensors all have one type."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in tensors.items():
        values = _encoded(array, dtype)
        offsets = [len(data), len(data) + len(values)]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": offsets}
        data += values
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


_KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I8": "<i1", "I32": "<i4"}


def _encoded(array: Array, dtype: str) -> bytes:
    if dtype == "BF16":
        return (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    if dtype == "F8_E4M3":
        return np.full(array.shape, 0x30, np.uint8).tobytes()
    if dtype.startswith("I"):
        array = np.rint(array * 100)
    return array.astype(_KINDS[dtype]).tobytes()


def lora(
    *ends: str,
    base: BaseModel = LLAMA,
    rank: int = 4,
    ranks: Mapping[str, int] | None = None,
    layers: Sequence[int] | None = None,
) -> Named:
    """Random factors of every module of `base` that ends with one of `ends`, as PEFT names them.

    ranks: other ranks by the ends of names; layers: only these.
    """
    random = np.random.default_rng(0)
    made: Named = {}
    for module, (out_features, in_features) in base.modules.items():
        if not module.endswith(ends or ("q_proj", "v_proj")):
            continue
        if layers is not None and not any(f".layers.{layer}." in module for layer in layers):
            continue
        fitting = [other for end, other in (ranks or {}).items() if module.endswith(end)]
        made |= pair(PREFIX + module, out_features, in_features, (fitting or [rank])[0], random)
    return made


def pair(
    name: str,
    out_features: int,
    in_features: int,
    rank: int = 4,
    random: np.random.Generator | None = None,
) -> Named:
    """A and B of one module."""
    random = random or np.random.default_rng(1)
    a = random.normal(0, 0.05, (rank, in_features)).astype(np.float32)
    b = random.normal(0, 0.05, (out_features, rank)).astype(np.float32)
    return {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}


def ones(*shape: int) -> Array:
    """A tensor."""
    return np.ones(shape, np.float32)


def renamed(tensors: Mapping[str, Array], old: str, new: str) -> Named:
    """The same tensors, with `new` for `old` in their names."""
    return {name.replace(old, new): array for name, array in tensors.items()}


def prefixed(tensors: Mapping[str, Array], prefix: str) -> Named:
    """The same tensors, with other words before their names."""
    return {prefix + name: array for name, array in tensors.items()}


def scaled(tensors: Mapping[str, Array], factor: str, by: float) -> Named:
    """The same tensors, with every A or B multiplied."""
    return {n: (a * np.float32(by) if factor in n else a) for n, a in tensors.items()}
