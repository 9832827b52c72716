"""adapter_config.json as successive versions of PEFT write it, each key with its default."""

from typing import Any

from adapters.base_model import BaseModel

PEFT_0_2: dict[str, Any] = {
    "base_model_name_or_path": "tiny",
    "bias": "none",
    "enable_lora": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "lora_alpha": 8,
    "lora_dropout": 0.05,
    "merge_weights": False,
    "modules_to_save": None,
    "peft_type": "LORA",
    "r": 4,
    "target_modules": ["q_proj", "v_proj"],
    "task_type": "CAUSAL_LM",
}
_SINCE_0_4: dict[str, Any] = {
    name: value for name, value in PEFT_0_2.items() if name not in ("enable_lora", "merge_weights")
}
PEFT_0_4 = _SINCE_0_4 | {
    "auto_mapping": None,
    "init_lora_weights": True,
    "layers_pattern": None,
    "layers_to_transform": None,
    "revision": None,
}
PEFT_0_7 = PEFT_0_4 | {
    "alpha_pattern": {},
    "loftq_config": {},
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "rank_pattern": {},
    "use_rslora": False,
}
PEFT_0_13 = PEFT_0_7 | {"layer_replication": None, "use_dora": False}
PEFT_0_15 = PEFT_0_13 | {
    "corda_config": None,
    "eva_config": None,
    "exclude_modules": None,
    "lora_bias": False,
    "trainable_token_indices": None,
}
PEFT_0_18 = PEFT_0_15 | {
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "ensure_weight_tying": False,
    "peft_version": "0.18.1",
    "qalora_group_size": 16,
    "target_parameters": None,
    "use_qalora": False,
}
PEFT_0_21 = PEFT_0_18 | {
    "kasa_config": None,
    "lora_ga_config": None,
    "monteclora_config": None,
    "peft_version": "0.21.2",
    "use_bdlora": None,
    "velora_config": None,
}
"""The version that Lorary pins; a test compares it with what is installed."""


def made_for(base: BaseModel, *targets: str) -> dict[str, Any]:
    """The newest configuration, for another base."""
    return PEFT_0_21 | {"base_model_name_or_path": base.name, "target_modules": list(targets)}


def without(config: dict[str, Any], *names: str) -> dict[str, Any]:
    """A configuration that lacks some keys."""
    return {name: value for name, value in config.items() if name not in names}
