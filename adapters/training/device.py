"""Where a training is computed, and in which number format.

The device is the accelerator that torch finds (CUDA, ROCm, XPU, MPS), in several processes the one
of this process; else the CPU. On a device that computes in bfloat16 the frozen base is held in it,
and products are taken in it (autocast); what is trained, its gradients and the optimiser's state
are float32 always.
"""

import os
from typing import Any

import torch
import torch.utils.deterministic

from adapters.recipe import Recipe

_CPU = torch.device("cpu")


def device() -> torch.device:
    """The device of this process."""
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        return _CPU
    local = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device(found.type, local % max(1, torch.accelerator.device_count()))


def computes_in_bfloat16(recipe: Recipe) -> bool:
    """Whether this training's products are bfloat16: as the recipe says, else as the device can."""
    if recipe.precision != "auto":
        return recipe.precision == "bfloat16"
    here = device()
    if here.type == "cuda":
        return torch.cuda.get_device_capability(here)[0] >= 8 or torch.version.hip is not None
    return here.type in ("xpu", "npu")


def base_dtype(recipe: Recipe) -> torch.dtype:
    """How the base's weights are held: float32 where they themselves are trained."""
    frozen = recipe.method != "full"
    return torch.bfloat16 if frozen and computes_in_bfloat16(recipe) else torch.float32


def autocast(recipe: Recipe) -> Any:
    """A context in which products are taken in the training's format; for loops of our own."""
    enabled = computes_in_bfloat16(recipe)
    return torch.autocast(device().type, dtype=torch.bfloat16, enabled=enabled)


def make_repeatable() -> None:
    """Ask for deterministic kernels on a GPU, so that a resumed training ends in the same weights.

    An operation that has none warns, and is computed anyway.
    """
    if device().type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def random_state() -> dict[str, Any]:
    """The state of every random generator that a training draws from."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device().type != "cpu":
        state["device"] = torch.get_device_module(device()).get_rng_state(device())
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Take up what `random_state` gave."""
    torch.set_rng_state(state["cpu"])
    if "device" in state:
        torch.get_device_module(device()).set_rng_state(state["device"], device())


def peak_device_bytes() -> int | None:
    """The most memory allocated on this process's accelerator so far; None on a CPU."""
    here = device()
    if here.type == "cpu":
        return None
    module = torch.get_device_module(here)
    if not hasattr(module, "max_memory_allocated"):
        return None
    return int(module.max_memory_allocated(here))
