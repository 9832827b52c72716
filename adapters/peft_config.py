"""`adapter_config.json`, as PEFT writes it, read without PEFT.

Only keys whose meaning here is known are accepted. A configuration that asks for something the
server does not do would load and silently answer wrongly, which is worse than not loading.
"""

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

MAX_CONFIG_BYTES = 1 << 20
_MODULE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")

IGNORED = frozenset(
    (
        "auto_mapping",
        "base_model_class",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_dropout",
        "megatron_core",
        "parent_library",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    )
)
"""Keys that change training or loading in PEFT, but not what the saved tensors compute."""

UNSERVABLE: dict[str, tuple[object, str]] = {
    "alora_invocation_tokens": (None, "activated LoRA"),
    "arrow_config": (None, "Arrow routing"),
    "bias": ("none", "trained biases"),
    "corda_config": (None, "CorDA, which changes the base weights"),
    "ensure_weight_tying": (False, "tied adapter weights"),
    "eva_config": (None, "EVA"),
    "fan_in_fan_out": (False, "transposed (fan-in, fan-out) layers"),
    "kasa_config": (None, "KaSA"),
    "layer_replication": (None, "replicated layers"),
    "loftq_config": ({}, "LoftQ, which changes the base weights"),
    "lora_bias": (False, "a bias in LoRA itself"),
    "lora_ga_config": (None, "LoRA-GA"),
    "megatron_config": (None, "Megatron layers"),
    "modules_to_save": (None, "fully trained modules (modules_to_save)"),
    "monteclora_config": (None, "MonteCLoRA"),
    "target_parameters": (None, "LoRA on bare parameters"),
    "trainable_token_indices": (None, "trained token embeddings"),
    "use_bdlora": (None, "block-diagonal LoRA"),
    "use_dora": (False, "DoRA"),
    "use_qalora": (False, "QA-LoRA"),
    "velora_config": (None, "VeLoRA"),
}
"""Keys that must have their default, and what another value would ask for."""

_PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Initialisations after which the saved tensors are an ordinary LoRA (as vLLM judges, too)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong in the configuration, and the remedy."""

    problem: str
    remedy: str


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The part of PEFT's configuration that determines what the tensors compute."""

    base: str
    rank: int
    alpha: float
    rslora: bool
    target_modules: tuple[str, ...]
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)

    @property
    def max_rank(self) -> int:
        """The highest rank of any module."""
        return max([self.rank, *self.rank_pattern.values()])

    def rank_of(self, module: str) -> int:
        """The rank of one module, the first fitting pattern's or the common one."""
        for suffix, rank in self.rank_pattern.items():
            if is_suffix(suffix, module):
                return rank
        return self.rank

    def scale_of(self, module: str) -> float:
        """What B A is multiplied with: alpha / r, or alpha / sqrt(r) for rsLoRA."""
        matching = (a for suffix, a in self.alpha_pattern.items() if is_suffix(suffix, module))
        alpha, rank = next(matching, self.alpha), self.rank_of(module)
        return alpha / (rank**0.5 if self.rslora else rank)

    def targets(self, module: str) -> bool:
        """Whether `target_modules` names this module."""
        return any(is_suffix(target, module) for target in self.target_modules)


def is_suffix(suffix: str, module: str) -> bool:
    """Whether `suffix` is the end of the module's path, at a dot: PEFT's rule for names."""
    return module == suffix or module.endswith(f".{suffix}")


def parse_config(data: bytes) -> tuple[LoraConfig | None, list[Finding]]:
    """The configuration and everything wrong with it; None where that forbids going on."""
    if len(data) > MAX_CONFIG_BYTES:
        return None, [Finding("It is far larger than any configuration.", "Export it again.")]
    try:
        raw = json.loads(data, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        return None, [Finding(f"It is not valid JSON ({error}).", "Export it with PEFT again.")]
    if not isinstance(raw, dict):
        return None, [Finding("It is not a JSON object.", "Export it with PEFT again.")]
    if raw.get("peft_type") != "LORA":
        kind = str(raw.get("peft_type"))[:40]
        return None, [
            Finding(
                f"peft_type is {kind!r}; only LORA can be served per request.",
                "Train a LoRA adapter, or merge this one into a model of its own.",
            )
        ]
    findings = [*_unservable(raw), *_unknown(raw), *_init(raw)]
    fields = _Fields(raw, findings)
    config = LoraConfig(
        base=fields.text("base_model_name_or_path"),
        rank=fields.natural("r"),
        alpha=fields.positive("lora_alpha"),
        rslora=fields.flag("use_rslora"),
        target_modules=fields.modules(),
        rank_pattern=fields.ranks(),
        alpha_pattern=fields.pattern("alpha_pattern", (int, float)),
    )
    return config, findings


def _unservable(raw: dict[str, Any]) -> list[Finding]:
    found = []
    for key, (default, meaning) in UNSERVABLE.items():
        value = raw.get(key, default)
        if value != default and value not in (None, [], {}, False):
            found.append(
                Finding(
                    f"{key} asks for {meaning}, which the server cannot apply per request.",
                    f"Train without {key}, or merge the adapter into a model of its own.",
                )
            )
    return found


def _unknown(raw: dict[str, Any]) -> list[Finding]:
    known = IGNORED | UNSERVABLE.keys() | _Fields.KEYS
    found = []
    for key in sorted(raw.keys() - known):
        remedy = "Remove the key if the adapter does not depend on it."
        if key == "auto_map":
            remedy = "Remove it: code is never loaded from an adapter."
        found.append(Finding(f"The key {key[:60]!r} is not understood here.", remedy))
    return found


def _init(raw: dict[str, Any]) -> list[Finding]:
    init = raw.get("init_lora_weights", True)
    if not isinstance(init, str) or init.lower() in _PLAIN_INITS:
        return []
    return [
        Finding(
            f"init_lora_weights={init[:40]!r} changes the base model's weights at loading.",
            "Convert it with PEFT's path_initial_model_for_weight_conversion, then set true.",
        )
    ]


class _Fields:
    """Reads typed values and notes what is wrong with them; a wrong value reads as empty."""

    KEYS = frozenset(
        (
            "alpha_pattern",
            "base_model_name_or_path",
            "init_lora_weights",
            "lora_alpha",
            "peft_type",
            "r",
            "rank_pattern",
            "target_modules",
            "use_rslora",
        )
    )

    def __init__(self, raw: dict[str, Any], findings: list[Finding]) -> None:
        self._raw = raw
        self._findings = findings

    def _wrong(self, key: str, wanted: str) -> None:
        shown = repr(self._raw.get(key))[:60]
        self._findings.append(Finding(f"{key} is {shown}.", f"Set {key} to {wanted}."))

    def text(self, key: str) -> str:
        value = self._raw.get(key)
        if isinstance(value, str) and value:
            return value
        self._wrong(key, "the base model's registered name")
        return ""

    def natural(self, key: str) -> int:
        value = self._raw.get(key)
        if type(value) is int and value > 0:
            return value
        self._wrong(key, "a positive whole number")
        return 0

    def positive(self, key: str) -> float:
        value = self._raw.get(key)
        number = (
            float(value)
            if isinstance(value, int | float) and not isinstance(value, bool)
            else math.nan
        )
        if 0 < number < 1e6:
            return number
        self._wrong(key, "a positive number")
        return 0.0

    def flag(self, key: str) -> bool:
        value = self._raw.get(key, False)
        if isinstance(value, bool):
            return value
        self._wrong(key, "true or false")
        return False

    def modules(self) -> tuple[str, ...]:
        value = self._raw.get("target_modules")
        if (
            isinstance(value, list)
            and value
            and all(isinstance(name, str) and _MODULE.fullmatch(name) for name in value)
        ):
            return tuple(sorted(value))
        self._wrong("target_modules", 'a list of module names such as ["q_proj", "v_proj"]')
        return ()

    def ranks(self) -> dict[str, int]:
        return self.pattern("rank_pattern", (int,))

    def pattern(self, key: str, kinds: tuple[type, ...]) -> dict[str, Any]:
        value = self._raw.get(key) or {}
        if isinstance(value, dict) and all(
            _MODULE.fullmatch(name) and type(number) in kinds and 0 < number < 1e6
            for name, number in value.items()
        ):
            return value
        self._wrong(key, "a map from plain module names (no regular expressions) to numbers")
        return {}


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found
