"""Presets of vLLM's own options for LoRA on a GPU, chosen by `LORARY_LORA_PRESET`.

Expected effects are vLLM's. Only `standard` was run on a GPU, an H200: one adapter in a batch left
0.71 of the base model's requests a second, 8 left 0.63 and 32 left 0.42.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Name = Literal["standard", "specialized", "dual-stream"]
TUNED_FOLDER = "VLLM_TUNED_CONFIG_FOLDER"
TUNED_FILES = ("SHRINK", "EXPAND_TRUE", "EXPAND_FALSE")
"""Tables of kernel configurations that vLLM looks for, by the end of their names."""


@dataclass(frozen=True, slots=True)
class Preset:
    """One choice of vLLM's options."""

    meaning: str
    options: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


PRESETS: Mapping[Name, Preset] = {
    "standard": Preset("vLLM's defaults: kernels sized for all slots, one stream"),
    "specialized": Preset(
        "kernels and CUDA graphs sized for 1, 2, 4, ... active adapters, so that a batch with few "
        "of them costs less; more graphs, hence a longer start and more memory. Not run on a GPU",
        ("--specialize-active-lora",),
    ),
    "dual-stream": Preset(
        "as specialized; and what adapters add is computed beside the base model's layers, on a "
        "second CUDA stream. Not run on a GPU",
        ("--specialize-active-lora",),
        {"VLLM_LORA_ENABLE_DUAL_STREAM": "1"},
    ),
}


def variables(name: Name, capability: tuple[int, int]) -> dict[str, str]:
    """What the preset sets in vLLM's environment, on a GPU of that compute capability."""
    chosen = dict(PRESETS[name].variables)
    if chosen and capability >= (10, 0):
        # The early launch of dependent kernels, which a second stream turns on, does not compile
        # for Blackwell in vLLM 0.32.
        chosen["VLLM_LORA_DISABLE_PDL"] = "1"
    return chosen


def graph_counts(name: Name, slots: int) -> int:
    """For how many counts of active adapters CUDA graphs are captured, none included."""
    if "--specialize-active-lora" not in PRESETS[name].options:
        return 2
    return 1 + len({1 << power for power in range(slots.bit_length())} | {slots + 1})


def missing_tables(folder: Path, gpu: str) -> list[str]:
    """Tuned kernel configurations of `gpu` that are not in `folder`; vLLM then quietly takes its
    defaults."""
    name = gpu.replace(" ", "_").replace("-", "_")
    wanted = [f"{name}_{end}.json" for end in TUNED_FILES]
    return [file for file in wanted if not (folder / file).is_file()]
