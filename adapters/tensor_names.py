"""Names of tensors: parses those of PEFT, and diagnoses all others.

PEFT names the factors of a module `base_model.model.MODULE.lora_A.weight` and `.lora_B.weight`.
Under other names PEFT or vLLM refuses an adapter, or loads it without effect.
"""

from collections.abc import Mapping
from typing import Literal

from adapters.peft_config import Finding

PREFIX = "base_model.model."
AGAIN = "Export the adapter again with save_pretrained, and upload the whole file."
_MERGE = "merge the adapter into a model of its own."
_ENDINGS: dict[str, Literal["A", "B"]] = {".lora_A.weight": "A", ".lora_B.weight": "B"}
_EMBEDDINGS = frozenset(("embed_tokens", "lm_head", "wpe", "wte"))
_TOWERS = frozenset(
    (
        "audio_tower",
        "embed_audio",
        "embed_vision",
        "mm_projector",
        "multi_modal_projector",
        "vision_model",
        "vision_tower",
        "visual",
    )
)
_WRAPPERS = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "module": "DistributedDataParallel or DeepSpeed",
}
"""What the wrappers of PyTorch put into the names of the modules they wrap."""


def factor_of(name: str) -> tuple[str, Literal["A", "B"]] | None:
    """The module and the factor that a tensor's name stands for; None if it is not PEFT's name."""
    for ending, factor in _ENDINGS.items():
        if name.startswith(PREFIX) and name.endswith(ending):
            module = name[len(PREFIX) : -len(ending)]
            return None if _wrapper(module) or module.startswith(PREFIX) else (module, factor)
    return None


def misnamed(name: str) -> Finding:
    """Diagnoses the name of a tensor that `factor_of` does not take."""
    said = f"Tensor {name if len(name) <= 120 else name[:117] + '...'!r}"
    wrapper = _wrapper(name)
    if wrapper and "lora_" in name:
        return Finding(
            f"{said} has {wrapper!r} in its name, from {_WRAPPERS[wrapper]}: it would load and do "
            "nothing.",
            f"Save the unwrapped model, or drop {wrapper + '.'!r} from each tensor's name.",
        )
    if name.startswith(PREFIX + PREFIX):
        return Finding(
            f"{said} belongs to a PEFT model inside another PEFT model: PEFT would load nothing.",
            "Merge the first adapter into the base model (merge_and_unload) before training.",
        )
    if "lora_magnitude_vector" in name:
        return Finding(f"{said} belongs to DoRA.", "Train without use_dora, or merge.")
    if "lora_embedding" in name:
        return Finding(
            f"{said} adapts an embedding, which is not served.",
            "Leave embeddings out of target_modules.",
        )
    if name.endswith(".base_layer.weight"):
        return Finding(
            f"{said} is a copy of the base model's, which PEFT saves beside LoRA on embeddings.",
            f"Train without lm_head and embeddings in target_modules, or {_MERGE}",
        )
    if name.endswith((".lora_A.bias", ".lora_B.bias")):
        return Finding(f"{said} is a bias in LoRA itself.", f"Train without lora_bias, or {_MERGE}")
    if name.startswith(PREFIX) and (".lora_A." in name or ".lora_B." in name):
        return Finding(
            f"{said} has the name that LoRA weights have inside PEFT's model: its state_dict() was "
            "saved as it is.",
            "Save with save_pretrained, or drop the adapter's name (usually .default) from each "
            "tensor's name.",
        )
    if name.endswith((".lora_a", ".lora_b")):
        return Finding(
            f"{said} is a LoRA weight as MLX names it.",
            f"Transpose and rename it to {PREFIX}MODULE.lora_A.weight or .lora_B.weight.",
        )
    if name.endswith((".lora_a.weight", ".lora_b.weight")):
        return Finding(
            f"{said} is a LoRA weight as torchtune names it.",
            "Save with FullModelHFCheckpointer, which writes PEFT's format, and publish that.",
        )
    if name.endswith(tuple(_ENDINGS)):
        return Finding(
            f"{said} lacks the prefix {PREFIX!r}, without which PEFT loads nothing.",
            "Save with save_pretrained, or convert the names to PEFT's.",
        )
    if name.startswith(PREFIX) and name.removesuffix(".weight").endswith(tuple(_EMBEDDINGS)):
        return Finding(
            f"{said} is an embedding saved whole: fully trained, or resized for further tokens.",
            "Save with save_embedding_layers=False if neither was meant, train without "
            f"modules_to_save, or {_MERGE}",
        )
    if "modules_to_save" in name or (name.startswith(PREFIX) and name.endswith(".weight")):
        return Finding(
            f"{said} is a fully trained module, which is not served.",
            f"Train without modules_to_save, or {_MERGE}",
        )
    return Finding(f"{said} is no LoRA weight as PEFT names them.", AGAIN)


def unmatched(module: str, modules: Mapping[str, object], base: str) -> Finding:
    """Diagnoses a module that has tensors but is none of its base model's."""
    if module.rpartition(".")[2] in _EMBEDDINGS:
        return Finding(
            f"Module {module[:120]!r} is the model's output or input embedding, to which LoRA is "
            "not applied here: vLLM adapts it for some models only.",
            f"Train without lm_head and embeddings in target_modules, or {_MERGE}",
        )
    if module.endswith((".experts", ".experts.base_layer")):
        return Finding(
            f"Module {module[:120]!r} adapts all experts of a layer at once, as target_parameters "
            "does, which is not served.",
            f"Train without the experts, or {_MERGE}",
        )
    meant = next((name for name in _alternatives(module) if name in modules), None)
    if meant is None:
        return Finding(
            f"Module {module[:120]!r} matches no linear module of {base!r}; the adapter would load "
            "and do nothing there.",
            f"Train on {base!r} itself, with its own module names.",
        )
    return Finding(
        f"Module {module[:120]!r} matches no linear module of {base!r}, which calls it {meant!r}.",
        f"Load {base!r} with AutoModelForCausalLM to train on it, or rename the tensors.",
    )


def of_a_tower(module: str) -> Finding | None:
    """Refuses a module that processes images or audio; None for any other."""
    if _TOWERS.isdisjoint(module.split(".")):
        return None
    return Finding(
        f"Module {module[:120]!r} processes images or audio; only text is served here, and vLLM "
        "would ignore it silently.",
        "Train the language model's layers only (Unsloth: finetune_vision_layers=False).",
    )


def _alternatives(module: str) -> tuple[str, ...]:
    """Names of the same module in classes without a head, or with a vision tower."""
    _, _, inner = module.partition("layers.")
    return tuple(f"{stem}layers.{inner}" for stem in ("model.", "model.language_model.", ""))


def _wrapper(name: str) -> str | None:
    """The first wrapper among the parts of a name; `module` counts as the first part only."""
    parts = name.split(".")
    return next(
        (p for n, p in enumerate(parts) if p in _WRAPPERS and (p[0] == "_" or n == 0)), None
    )
