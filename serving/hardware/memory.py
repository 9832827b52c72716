"""Bytes that a base model, adapter slots, adapters in host memory and the KV cache take. Pure.

vLLM allocates every slot at the start, for every linear module and for the vocabulary's, at the
highest rank that is allowed (`vllm/lora/layers`). Tensor parallelism divides the larger half of a
module's update and repeats the other. In host memory each worker keeps whole adapters, and on a GPU
in page-locked memory, of which PyTorch hands out powers of two
(`c10`'s CachingHostAllocator).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROW_PARALLEL = ("o_proj", "down_proj", "out_proj", "dense_4h_to_h", "fc2", "w2", "c_proj")
"""Modules whose inputs tensor parallelism divides; of the others it divides the outputs."""
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "half": 2, "float": 4}
_SMALLER_CACHE = (
    "sliding_window", "layer_types", "kv_lora_rank", "attn_layer_indices",
    "full_attention_interval", "hybrid_override_pattern", "attention_chunk_size",
)  # fmt: skip
"""Keys of a configuration whose KV cache is smaller than that of plain attention."""
QUANTISED_BITS = {"fp8": 8, "awq": 4, "gptq": 4, "mxfp4": 4, "bitsandbytes": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What of a base model decides about memory."""

    modules: Mapping[str, tuple[int, int]]
    """Kind of linear module (`q_proj`) to its (out, in) features; each is there `layers` times."""
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    heads: int
    kv_heads: int
    head_size: int
    positions: int
    """Longest context that the model was made for."""
    weight_bytes: int
    dtype: str = "bfloat16"
    experts: int = 1
    """Copies of the modules of the MLP in a layer."""
    uniform: bool = True
    """Whether every layer keeps keys and values of all tokens. Where some keep fewer, or compressed
    ones, `token_bytes` is an upper bound."""

    @classmethod
    def of(cls, config: Mapping[str, Any], weight_bytes: int | None = None) -> "Shape | None":
        """The shape that a Hugging Face `config.json` declares; None if it lacks a figure.

        weight_bytes: of the files; None: computed from the number of parameters.
        """
        config = {**config, **(config.get("text_config") or {})}
        try:
            layers, hidden = int(config["num_hidden_layers"]), int(config["hidden_size"])
            heads = int(config["num_attention_heads"])
            experts = int(_first(config, "num_local_experts", "num_experts", "n_routed_experts", 1))
            wide = int(_first(config, "moe_intermediate_size", "intermediate_size"))
            vocabulary = int(config["vocab_size"])
        except (KeyError, TypeError, ValueError):
            return None
        kv_heads = int(config.get("num_key_value_heads") or heads)
        size = int(config.get("head_dim") or hidden // heads)
        modules = {
            "q_proj": (heads * size, hidden),
            "k_proj": (kv_heads * size, hidden),
            "v_proj": (kv_heads * size, hidden),
            "o_proj": (hidden, heads * size),
            "gate_proj": (wide, hidden),
            "up_proj": (wide, hidden),
            "down_proj": (hidden, wide),
        }
        dtype = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
        shape = cls(
            modules=modules,
            layers=layers,
            hidden=hidden,
            intermediate=wide,
            vocabulary=vocabulary,
            heads=heads,
            kv_heads=kv_heads,
            head_size=size,
            positions=int(config.get("max_position_embeddings") or 2048),
            weight_bytes=0,
            dtype=dtype.removeprefix("torch."),
            experts=max(1, experts),
            uniform=not any(config.get(name) for name in _SMALLER_CACHE),
        )
        method = str((config.get("quantization_config") or {}).get("quant_method", ""))
        bits = QUANTISED_BITS.get(method.partition("_")[0], 8 * shape.item_bytes)
        embeddings = vocabulary * hidden * (1 if config.get("tie_word_embeddings") else 2)
        linear = sum(out * into * shape.copies(name) for name, (out, into) in modules.items())
        computed = embeddings * shape.item_bytes + linear * layers * bits // 8
        return replace(shape, weight_bytes=weight_bytes or computed)

    @property
    def item_bytes(self) -> int:
        """Bytes of one number of an adapter or the KV cache, which vLLM keeps in 16 bits."""
        return min(2, ITEM_BYTES.get(self.dtype, 2))

    def copies(self, module: str) -> int:
        """How many of a kind of module a layer has."""
        return self.experts if module in ("gate_proj", "up_proj", "down_proj") else 1


def read_shape(directory: Path) -> Shape | None:
    """The shape of the model in a directory; None if its configuration cannot be read."""
    try:
        config = json.loads((directory / "config.json").read_bytes())
    except (OSError, ValueError):
        return None
    files = [file.stat().st_size for file in directory.glob("*.safetensors")]
    return Shape.of(config, sum(files) or None) if isinstance(config, dict) else None


def slot_bytes(shape: Shape, rank: int, tensor: int = 1, pipeline: int = 1) -> int:
    """Memory of one adapter slot on each GPU.

    tensor, pipeline: sizes of tensor and pipeline parallelism.
    """
    numbers = 0
    for name, (out, into) in shape.modules.items():
        if name in ROW_PARALLEL:
            one = math.ceil(into / tensor) + out
        else:
            parts = min(tensor, shape.kv_heads) if name in ("k_proj", "v_proj") else tensor
            one = into + math.ceil(out / parts)
        numbers += one * shape.copies(name)
    numbers = numbers * math.ceil(shape.layers / pipeline)
    numbers += 2 * (shape.vocabulary + shape.hidden)  # embeddings and language-model head
    return numbers * rank * shape.item_bytes


def adapter_bytes(shape: Shape, rank: int, *, pinned: bool) -> int:
    """Host memory of one adapter of `rank` on every linear module, in one worker.

    pinned: whether it lies in page-locked memory, as beside a GPU.
    """
    total = 0
    for name, (out, into) in shape.modules.items():
        for features in (out, into):
            size = features * rank * shape.item_bytes
            total += (_power_of_two(size) if pinned else size) * shape.copies(name)
    return total * shape.layers


def token_bytes(shape: Shape, tensor: int = 1, pipeline: int = 1, item_bytes: int = 2) -> int:
    """KV cache of one token on each GPU."""
    heads = max(1, math.ceil(shape.kv_heads / tensor))
    return 2 * math.ceil(shape.layers / pipeline) * heads * shape.head_size * item_bytes


def working_bytes(shape: Shape, sequences: int, tokens: int, tensor: int = 1) -> int:
    """An estimate of what one step needs beside weights, slots and KV cache: 2 GiB for the CUDA
    context, libraries and graphs, the widest activations of `tokens`, and logits of `sequences` in
    float32, twice. vLLM measures the true figure when it starts."""
    activations = tokens * (2 * shape.intermediate // tensor + 4 * shape.hidden) * 2
    logits = 2 * sequences * shape.vocabulary * 4
    return (2 << 30) + activations + logits


def _first(config: Mapping[str, Any], *names: str | int) -> Any:
    """The first of `names` that is set; a number at the end is the default."""
    for name in names:
        if isinstance(name, int):
            return name
        if config.get(name) is not None:
            return config[name]
    raise KeyError(names[0])


def _power_of_two(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()
