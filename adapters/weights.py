"""Whether the tensors of a LoRA adapter fit its base model and do something there."""

from collections import defaultdict
from dataclasses import dataclass
from math import prod
from typing import IO

import numpy as np

from adapters.base_model import BaseModel
from adapters.peft_config import Finding, LoraConfig
from adapters.safetensors_header import BadSafetensors, TensorInfo, read_header

PREFIX = "base_model.model."
PIECE = 8 << 20
"""Bytes of a tensor that are looked at together."""

_EXPONENT = {
    "F32": (np.uint32, 0x7F800000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}
"""By type: the unsigned integer of its width, and the exponent bits, all set in NaN and Inf."""

_AGAIN = "Export the adapter again with save_pretrained, and upload the whole file."


@dataclass(frozen=True, slots=True)
class Tensors:
    """How many tensors and parameters the file holds."""

    count: int = 0
    parameters: int = 0


@dataclass(slots=True)
class Pair:
    """The two factors of one module's update, B A."""

    a: TensorInfo | None = None
    b: TensorInfo | None = None


def check_weights(
    file: IO[bytes], size: int, base: BaseModel, config: LoraConfig | None
) -> tuple[Tensors, list[Finding]]:
    """What the file holds, and everything wrong with it. Without `config`, ranks go unchecked."""
    try:
        infos = read_header(file, size)
    except BadSafetensors as error:
        return Tensors(), [Finding(error.message, _AGAIN)]
    findings: list[Finding] = []
    pairs = _pair_up(infos, findings)
    if not pairs and not findings:
        findings.append(Finding("It holds no LoRA tensors.", _AGAIN))
    for module, pair in pairs.items():
        findings += _check_pair(module, pair, base, config)
    if config is not None and pairs:
        findings += _check_targets(pairs, config)
    findings += _check_values(file, infos)
    counted = Tensors(len(infos), sum(prod(info.shape) for info in infos))
    return counted, _grouped(findings)


def _pair_up(infos: list[TensorInfo], findings: list[Finding]) -> dict[str, Pair]:
    pairs: dict[str, Pair] = defaultdict(Pair)
    for info in infos:
        module = info.name.removeprefix(PREFIX)
        if info.dtype not in _EXPONENT:
            findings.append(
                Finding(
                    f"Tensor {info.name!r} has type {info.dtype}.", "Save it as F32, F16 or BF16."
                )
            )
        elif info.name.startswith(PREFIX) and module.endswith(".lora_A.weight"):
            pairs[module.removesuffix(".lora_A.weight")].a = info
        elif info.name.startswith(PREFIX) and module.endswith(".lora_B.weight"):
            pairs[module.removesuffix(".lora_B.weight")].b = info
        else:
            findings.append(_stranger(info.name))
    return pairs


def _stranger(name: str) -> Finding:
    """A tensor that is no LoRA factor, named by what it probably is."""
    shown = name if len(name) <= 120 else name[:117] + "..."
    if "lora_magnitude_vector" in name:
        return Finding(f"Tensor {shown!r} belongs to DoRA.", "Train without use_dora, or merge.")
    if "lora_embedding" in name:
        return Finding(
            f"Tensor {shown!r} adapts an embedding, which is not served.",
            "Leave embeddings out of target_modules.",
        )
    if "modules_to_save" in name or (name.startswith(PREFIX) and name.endswith(".weight")):
        return Finding(
            f"Tensor {shown!r} is a fully trained module, which is not served.",
            "Train without modules_to_save, or merge the adapter into a model of its own.",
        )
    return Finding(f"Tensor {shown!r} is no LoRA weight as PEFT names them.", _AGAIN)


def _check_pair(
    module: str, pair: Pair, base: BaseModel, config: LoraConfig | None
) -> list[Finding]:
    if pair.a is None or pair.b is None:
        lacking = "lora_A" if pair.a is None else "lora_B"
        return [Finding(f"Module {module[:120]!r} lacks its {lacking}.", _AGAIN)]
    shape = base.modules.get(module)
    if shape is None:
        return [
            Finding(
                f"Module {module[:120]!r} matches no linear module of {base.name!r}; "
                "the adapter would load and do nothing there.",
                f"Train on {base.name!r} itself, with its own module names.",
            )
        ]
    out_features, in_features = shape
    a, b = pair.a.shape, pair.b.shape
    rank = config.rank_of(module) if config else (a[0] if a else 0)
    if a != (rank, in_features) or b != (out_features, rank):
        return [
            Finding(
                f"Module {module!r} has shapes A {list(a)} and B {list(b)}; rank {rank} on "
                f"{base.name!r} needs [{rank}, {in_features}] and [{out_features}, {rank}].",
                "Publish it against the base model and with the configuration it was trained with.",
            )
        ]
    return []


def _check_targets(pairs: dict[str, Pair], config: LoraConfig) -> list[Finding]:
    findings = []
    for module in pairs:
        if config.target_modules and not config.targets(module):
            findings.append(
                Finding(
                    f"Module {module[:120]!r} has tensors, but target_modules does not name it.",
                    "Save weights and configuration together, from the same PEFT model.",
                )
            )
    for target in config.target_modules:
        if not any(module == target or module.endswith(f".{target}") for module in pairs):
            findings.append(
                Finding(
                    f"target_modules names {target!r}, for which there are no tensors.",
                    "Save weights and configuration together, from the same PEFT model.",
                )
            )
    return findings


def _check_values(file: IO[bytes], infos: list[TensorInfo]) -> list[Finding]:
    findings = []
    factors = [info for info in infos if info.dtype in _EXPONENT]
    zero_b = 0
    for info in factors:
        finite, zero = _look_at(file, info)
        if not finite:
            findings.append(
                Finding(
                    f"Tensor {info.name[:120]!r} holds NaN or infinity.",
                    "The training diverged: lower the learning rate and train again.",
                )
            )
        zero_b += zero and ".lora_B." in info.name
    b_count = sum(".lora_B." in info.name for info in factors)
    if b_count and zero_b == b_count:
        findings.append(
            Finding(
                "Every lora_B is zero: the adapter would load and do nothing.",
                "Save the adapter after training, not before.",
            )
        )
    return findings


def _look_at(file: IO[bytes], info: TensorInfo) -> tuple[bool, bool]:
    """Whether all values are finite, and whether all are zero."""
    integer, exponent = _EXPONENT[info.dtype]
    finite, zero = True, True
    file.seek(info.begin)
    remaining = info.end - info.begin
    while remaining:
        piece = file.read(min(PIECE, remaining))
        if not piece:
            break
        remaining -= len(piece)
        bits = np.frombuffer(piece, dtype=np.dtype(integer).newbyteorder("<"))
        finite = finite and not bool(np.any((bits & exponent) == exponent))
        # All bits but the sign: minus zero is zero.
        zero = zero and not bool(np.any(bits << 1))
    return finite, zero


def _grouped(findings: list[Finding], most: int = 8) -> list[Finding]:
    """The findings, but of many alike (one per layer, say) only the first few."""
    kept, counts = [], defaultdict[str, int](int)
    for finding in findings:
        counts[finding.remedy] += 1
        if counts[finding.remedy] <= most:
            kept.append(finding)
    return kept + [
        Finding(f"{count - most} more problems of this kind.", remedy)
        for remedy, count in counts.items()
        if count > most
    ]
