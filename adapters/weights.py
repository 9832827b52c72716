"""Whether the tensors of a LoRA adapter fit its base model and do something there."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from math import isfinite, prod
from typing import IO

from adapters.base_model import BaseModel
from adapters.heads import check_head, part_of
from adapters.magnitude import check_magnitude
from adapters.module_names import names_of
from adapters.peft_config import Finding, LoraConfig
from adapters.safetensors_header import FLOATS, BadSafetensors, TensorInfo, read_header
from adapters.singular_values import spectra
from adapters.spectra import Spectrum
from adapters.tensor_names import AGAIN, factor_of, misnamed, of_a_tower, unmatched
from adapters.tensor_values import Examined, examine


@dataclass(frozen=True, slots=True)
class Tensors:
    """How many tensors and parameters the file holds, the spectrum of each module's update, and the
    digest of the tensors."""

    count: int = 0
    parameters: int = 0
    modules: Mapping[str, Spectrum] = field(default_factory=dict)
    digest: str | None = None
    head: int = 0
    """Rows of the classification head; 0 without one."""


_BOTH = "Save weights and configuration together, from the same PEFT model."
_GATHER = (
    "Gather the shards before saving (DeepSpeed: stage3_gather_16bit_weights_on_model_save; FSDP: "
    "the full state dict), or convert the checkpoint with zero_to_fp32.py."
)


@dataclass(slots=True)
class Pair:
    """The two factors of one module's update, B A."""

    a: TensorInfo | None = None
    b: TensorInfo | None = None


def check_weights(
    file: IO[bytes],
    size: int,
    base: BaseModel,
    config: LoraConfig | None,
    *,
    max_rank: int,
    max_labels: int,
) -> tuple[Tensors, list[Finding]]:
    """What the file holds, and everything wrong with it, in time linear in the file's size.

    Without `config`, ranks and magnitudes go unchecked. No update of a rank above `max_rank` is
    measured, and no head has more than `max_labels` rows.
    """
    try:
        infos = read_header(file, size)
    except BadSafetensors as error:
        return Tensors(), [Finding(error.message, AGAIN)]
    findings: list[Finding] = []
    head = [info for info in infos if part_of(info.name) is not None]
    pairs = _pair_up([info for info in infos if info not in head], findings)
    if not pairs and not findings:
        findings.append(Finding("It holds no LoRA tensors.", _GATHER))
    found = {info.name: examine(file, info) for info in infos if info.dtype in FLOATS}
    top = {name: examined.largest for name, examined in found.items()}
    findings += _check_finite(top)
    rows = 0
    if config is not None:
        rows, wrong = check_head(head, top, base.modules, named=config.saved, max_labels=max_labels)
        findings += wrong
    sound = {}
    for module, pair in pairs.items():
        problems = _check_pair(module, pair, base, config)
        findings += problems
        if pair.a is None or pair.b is None or problems:
            continue
        if isfinite(top[pair.a.name]) and isfinite(top[pair.b.name]):
            sound[module] = pair.a, pair.b
    modules: dict[str, Spectrum] = {}
    if config is not None and pairs:
        findings += _check_named(pairs.keys() & base.modules.keys(), base, config)
        if 0 < config.max_rank <= max_rank and config.alpha > 0:
            modules = spectra(file, sound, config)
            factors = {module: (top[a.name], top[b.name]) for module, (a, b) in sound.items()}
            findings += check_magnitude(modules, factors, base, config)
    parameters = sum(prod(info.shape) for info in infos)
    counted = Tensors(len(infos), parameters, modules, _digest(infos, found), rows)
    return counted, _grouped(findings)


def _digest(infos: list[TensorInfo], found: Mapping[str, Examined]) -> str | None:
    """SHA-256 of every tensor's name, type, shape and bytes, in the order of the names; None if one
    was not read.

    Unlike the file's digest it leaves out what changes no weight: the header's `__metadata__`, its
    blanks, and the order of the tensors.
    """
    if len(found) < len(infos):
        return None
    listed = sorted((i.name, i.dtype, i.shape, found[i.name].sha256) for i in infos)
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _pair_up(infos: list[TensorInfo], findings: list[Finding]) -> dict[str, Pair]:
    pairs: dict[str, Pair] = defaultdict(Pair)
    for info in infos:
        meant = factor_of(info.name)
        if info.dtype not in FLOATS:
            findings.append(
                Finding(
                    f"Tensor {info.name[:120]!r} has type {info.dtype}.",
                    "Save it as F32, F16 or BF16.",
                )
            )
        elif meant is None:
            findings.append(misnamed(info.name))
        elif 0 in info.shape:
            findings.append(Finding(f"Tensor {info.name[:120]!r} is empty.", _GATHER))
        elif meant[1] == "A":
            pairs[meant[0]].a = info
        else:
            pairs[meant[0]].b = info
    return pairs


def _check_pair(
    module: str, pair: Pair, base: BaseModel, config: LoraConfig | None
) -> list[Finding]:
    if pair.a is None or pair.b is None:
        lacking = "lora_A" if pair.a is None else "lora_B"
        return [Finding(f"Module {module[:120]!r} lacks its {lacking}.", AGAIN)]
    shape = base.modules.get(module)
    if shape is None:
        return [unmatched(module, base.modules, base.name)]
    if tower := of_a_tower(module):
        return [tower]
    out_features, in_features = shape
    a, b = pair.a.shape, pair.b.shape
    rank = config.rank_of(module) if config else (a[0] if a else 0)
    if a == (in_features, rank) != (rank, in_features) and b == (rank, out_features):
        return [
            Finding(
                f"Module {module!r} has its factors transposed: A {list(a)} and B {list(b)}.",
                f"Save A as [{rank}, {in_features}] and B as [{out_features}, {rank}].",
            )
        ]
    if a != (rank, in_features) or b != (out_features, rank):
        return [
            Finding(
                f"Module {module!r} has shapes A {list(a)} and B {list(b)}; rank {rank} on "
                f"{base.name!r} needs [{rank}, {in_features}] and [{out_features}, {rank}].",
                "Publish it against the base model and with the configuration it was trained with.",
            )
        ]
    return []


def _check_named(modules: Set[str], base: BaseModel, config: LoraConfig) -> list[Finding]:
    """Whether target_modules and the patterns name the modules that have tensors."""
    named = {name for module in modules for name in names_of(module)}
    known = {name for module in base.modules for name in names_of(module)}
    findings = []
    if config.target_modules:
        targets = frozenset(config.target_modules)
        findings += [
            Finding(
                f"Module {module[:120]!r} has tensors, but target_modules does not name it.", _BOTH
            )
            for module in sorted(modules)
            if targets.isdisjoint(names_of(module))
        ]
        # PEFT passes over a target that the model does not have.
        findings += [
            Finding(f"target_modules names {target[:99]!r}, for which there are no tensors.", _BOTH)
            for target in config.target_modules
            if target in known and target not in named
        ]
    return findings + [
        Finding(f"{key} names {name[:120]!r}, for which there are no tensors.", _BOTH)
        for key, pattern in (
            ("rank_pattern", config.rank_pattern),
            ("alpha_pattern", config.alpha_pattern),
        )
        for name in pattern
        if "." in name and name.removeprefix("^") not in named
    ]


def _check_finite(top: Mapping[str, float]) -> list[Finding]:
    return [
        Finding(
            f"Tensor {name[:120]!r} holds NaN or infinity.",
            "The training diverged: lower the learning rate and train again.",
        )
        for name, value in top.items()
        if not isfinite(value)
    ]


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
