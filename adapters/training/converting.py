"""What the server cannot apply per request, made into what it can: a plain LoRA, or a model.

Merging is exact: the base's weights with the update added are a model of their own, as large as
the base and served as one. Converting keeps the per-request form: each weight's difference to the
base is replaced by its best approximation of a given rank (Eckart-Young: the truncated singular
value decomposition), and what is lost is measured and written into the card.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapters.admission import CARD, CONFIG, CURVE, PROVENANCE, WEIGHTS
from adapters.base_model import BaseModel
from adapters.errors import InvalidAdapter
from adapters.tensor_names import PREFIX

EXACT = 1e-3
"""Relative error below which nothing is lost but rounding."""
_VIRTUAL = ("PREFIX_TUNING", "PROMPT_TUNING")


@dataclass(frozen=True, slots=True)
class Conversion:
    """How close the plain LoRA is to what it was made from."""

    rank: int
    error: float
    """Frobenius norm of what is missing, as a share of the update's norm."""
    worst: float
    """The same of the module where it is largest."""
    of_base: float
    """Norm of what is missing as a share of the base's norm."""

    @property
    def said(self) -> str:
        """For people."""
        if self.error < EXACT:
            return f"The update has rank {self.rank} or less: the conversion is exact."
        return (
            f"At rank {self.rank}, {100 * self.error:.1f} % of the update's norm is lost "
            f"({100 * self.worst:.1f} % in the worst module, {100 * self.of_base:.2f} % of the "
            "base's norm). Evaluate it again before you rely on it."
        )


def convert(directory: Path, base: Path, out: Path, *, rank: int) -> Conversion:
    """Write the plain LoRA closest to the adapter or model in `directory` to `out`.

    Raises `InvalidAdapter` for virtual tokens, which no weights can stand for, and for a model
    that differs from its base outside the linear layers, which a LoRA cannot hold.
    """
    described = BaseModel.from_directory(base, "base")
    before = _weights(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32))
    after = _weights(_merged(directory, base, torch.float32))
    tensors: dict[str, torch.Tensor] = {}
    lost = whole = norm = worst = 0.0
    for name, weight in before.items():
        difference = after[name] - weight
        size = float(difference.norm()) ** 2
        if size == 0:
            continue
        module = name.removesuffix(".weight")
        if module not in described.modules:
            raise InvalidAdapter(
                f"{name} was trained, too, and a LoRA of linear layers cannot hold it. "
                "Merge instead: `lorary merge`."
            )
        a, b = factors(difference, rank)
        missing = float((difference - b @ a).norm()) ** 2
        tensors[f"{PREFIX}{module}.lora_A.weight"] = a.contiguous()
        tensors[f"{PREFIX}{module}.lora_B.weight"] = b.contiguous()
        lost, whole = lost + missing, whole + size
        norm += float(weight.norm()) ** 2
        worst = max(worst, (missing / size) ** 0.5)
    if not tensors:
        raise InvalidAdapter(f"{directory} differs nowhere from its base. Train it first.")
    conversion = Conversion(rank, (lost / whole) ** 0.5, worst, (lost / norm) ** 0.5)
    _write(directory, out, tensors, rank, conversion)
    return conversion


def factors(update: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A (r, in) and B (out, r) whose product is the closest of that rank to `update` (out, in)."""
    u, s, v = torch.linalg.svd(update, full_matrices=False)
    root = s[:rank].sqrt()
    idle = rank - len(root)  # of a weight that has no such rank
    a = torch.nn.functional.pad(root[:, None] * v[:rank], (0, 0, 0, idle))
    return a, torch.nn.functional.pad(u[:, :rank] * root, (0, idle))


def merge(directory: Path, base: Path, out: Path) -> None:
    """Write base and adapter as one model to `out`, in the base's own type.

    Raises `InvalidAdapter` for virtual tokens, which cannot be merged.
    """
    merged = _merged(directory, base, "auto")
    merged.save_pretrained(out)
    AutoTokenizer.from_pretrained(base).save_pretrained(out)
    for name in (CARD, PROVENANCE, CURVE):
        if (directory / name).is_file():
            shutil.copy(directory / name, out / name)


def _merged(directory: Path, base: Path, dtype: Any) -> Any:
    """The model that adapter and base make together; of a full fine-tuning the model itself."""
    if not (directory / CONFIG).is_file():
        return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    kind = msgspec.json.decode((directory / CONFIG).read_bytes()).get("peft_type")
    if kind in _VIRTUAL:
        raise InvalidAdapter(
            f"{directory} holds virtual tokens ({kind}), which no weights can stand for. "
            "Use it in PEFT, or train a LoRA instead: method=lora."
        )
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    return PeftModel.from_pretrained(model, directory).merge_and_unload()


def _weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def _write(
    directory: Path, out: Path, tensors: dict[str, torch.Tensor], rank: int, made: Conversion
) -> None:
    from_config = directory / CONFIG
    named = "base"
    if from_config.is_file():
        named = msgspec.json.decode(from_config.read_bytes())["base_model_name_or_path"]
    elif (directory / PROVENANCE).is_file():
        named = msgspec.json.decode((directory / PROVENANCE).read_bytes())["plan"]["base"]
    out.mkdir(parents=True, exist_ok=True)
    targets = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in tensors})
    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=named,
        r=rank,
        lora_alpha=rank,
        target_modules=targets,
        inference_mode=True,
    ).to_dict()
    config["target_modules"] = targets
    (out / CONFIG).write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n")
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    card = directory / CARD
    text = card.read_text() if card.is_file() else "---\nlibrary_name: peft\n---\n\n# Converted\n"
    (out / CARD).write_text(f"{text.rstrip()}\n\n## Conversion\n\n{made.said}\n")
    for name in (PROVENANCE, CURVE):
        if (directory / name).is_file():
            shutil.copy(directory / name, out / name)
