"""Configurations of base models by their usual sizes: shapes only, no weights."""

from typing import Any

from serving.hardware.memory import Shape

LLAMA: dict[str, Any] = {
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "max_position_embeddings": 131_072,
    "torch_dtype": "bfloat16",
}
CONFIGS: dict[str, dict[str, Any]] = {
    "1B": {**LLAMA, "num_hidden_layers": 16, "hidden_size": 2048, "intermediate_size": 8192,
           "num_attention_heads": 32, "tie_word_embeddings": True},
    "8B": {**LLAMA, "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14_336,
           "num_attention_heads": 32},
    "70B": {**LLAMA, "num_hidden_layers": 80, "hidden_size": 8192, "intermediate_size": 28_672,
            "num_attention_heads": 64},
}  # fmt: skip


def shape(size: str) -> Shape:
    """The shape of a base model of that size."""
    made = Shape.of(CONFIGS[size])
    assert made is not None
    return made
