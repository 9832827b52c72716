"""The bases of the table as checkpoints of a few thousand random parameters."""

from pathlib import Path
from typing import Any

from tests.support.foreign.case import EXPERTS, LLAMA, PHI
from tests.support.tiny_model import write_tiny_model

_SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def write_models(directory: Path) -> dict[str, Path]:
    """A checkpoint of each base, by the base's name."""
    from transformers import MixtralConfig, MixtralForCausalLM, Phi3Config, Phi3ForCausalLM

    experts: Any = MixtralConfig(num_hidden_layers=1, num_local_experts=2, **_SIZES)
    phi: Any = Phi3Config(num_hidden_layers=2, **_SIZES)
    paths = {base.name: directory / base.name for base in (LLAMA, PHI, EXPERTS)}
    write_tiny_model(paths[LLAMA.name])
    MixtralForCausalLM(experts).save_pretrained(paths[EXPERTS.name])
    Phi3ForCausalLM(phi).save_pretrained(paths[PHI.name])
    return paths
