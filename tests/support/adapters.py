"""Small adapters made with numpy: valid ones, and every way to spoil one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from adapters.base_model import BaseModel

TINY = BaseModel(
    name="tiny",
    digest="0" * 64,
    modules={
        f"model.layers.{layer}.self_attn.{module}": (16, 16)
        for layer in range(2)
        for module in ("q_proj", "v_proj")
    },
    known_as=("org/tiny",),
)
CARD = "---\nlicense: apache-2.0\n---\n\n# Tiny\n\n## Intended use\n\nTests.\n"


def config(**changes: Any) -> dict[str, Any]:
    """An adapter_config.json as PEFT writes it, for `TINY`."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
        "init_lora_weights": True,
        "inference_mode": True,
        **changes,
    }


def tensors(base: BaseModel = TINY, *, rank: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    """Random factors for every module of `base`."""
    random = np.random.default_rng(seed)
    made = {}
    for module, (out_features, in_features) in base.modules.items():
        name = f"base_model.model.{module}"
        a = random.normal(0, 0.05, (rank, in_features))
        b = random.normal(0, 0.05, (out_features, rank))
        made[f"{name}.lora_A.weight"] = a.astype(np.float32)
        made[f"{name}.lora_B.weight"] = b.astype(np.float32)
    return made


def head_tensors(size: int, width: int = 16, *, seed: int = 0) -> dict[str, np.ndarray]:
    """A classification head of `size` rows for `TINY`, as PEFT saves it."""
    weight = np.random.default_rng(seed).normal(0, 0.05, (size, width))
    return {"base_model.model.score.weight": weight.astype(np.float32)}


def write_adapter(
    directory: Path, base: BaseModel = TINY, *, rank: int = 4, seed: int = 0, **changes: Any
) -> Path:
    """A valid adapter for `base` in `directory`; another seed makes another version."""
    targets = sorted({module.rpartition(".")[2] for module in base.modules})
    weights = save(tensors(base, rank=rank, seed=seed))
    return write_described(directory, base, weights, r=rank, target_modules=targets, **changes)


def write_described(directory: Path, base: BaseModel, weights: bytes, **described: Any) -> Path:
    """An adapter of `weights` in `directory`, with its configuration and a card."""
    directory.mkdir(parents=True, exist_ok=True)
    told = config(base_model_name_or_path=base.name, **described)
    (directory / "adapter_config.json").write_text(json.dumps(told))
    (directory / "adapter_model.safetensors").write_bytes(weights)
    (directory / "README.md").write_text(CARD)
    return directory
