"""`adapter_config.json`, as PEFT writes it, read without PEFT.

Only keys whose meaning here is known are accepted, and unknown ones that are null, false or empty:
those ask for nothing. A configuration that asks for something the server does not do would load and
silently answer wrongly, which is worse than not loading. No pattern in it is ever run.
"""

import json
from dataclasses import dataclass
from typing import Any

from adapters.errors import InvalidAdapter
from adapters.module_names import Overrides, is_module

MAX_CONFIG_BYTES = 1 << 20
MAX_LISTED = 10_000
"""Names in `target_modules`, and in each pattern."""
_NOTHING: tuple[object, ...] = (None, False, [], {}, "")

IGNORED = frozenset(
    (
        "auto_mapping",
        "base_model_class",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "lora_dtype",
        "lora_ga_config",
        "lorap_emb_lr",
        "lorap_lr_ratio",
        "megatron_config",
        "megatron_core",
        "merge_weights",
        "parent_library",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    )
)
"""Keys that change training or loading in PEFT, but not what the saved tensors compute.

`init_lora_weights` shows whether CorDA or LoftQ changed the base's weights; their settings stay in
the file after conversion to a plain LoRA. The tensors show which parameters and embeddings are
adapted. `lora_dtype` and `lorap_*` are written by ms-swift.
"""

_MLX = frozenset(("fine_tune_type", "lora_layers", "lora_parameters"))
"""Keys of an adapter_config.json that MLX wrote."""

UNSERVABLE: dict[str, tuple[object, str]] = {
    "alora_invocation_tokens": (None, "activated LoRA"),
    "arrow_config": (None, "Arrow routing"),
    "bias": ("none", "trained biases"),
    "kasa_config": (None, "KaSA"),
    "layer_replication": (None, "replicated layers"),
    "lora_bias": (False, "a bias in LoRA itself"),
    "monteclora_config": (None, "MonteCLoRA"),
    "trainable_token_indices": (None, "trained token embeddings"),
    "use_bdlora": (None, "block-diagonal LoRA"),
    "use_dora": (False, "DoRA"),
    "use_qalora": (False, "QA-LoRA"),
    "velora_config": (None, "VeLoRA"),
}
"""Keys that must have their default, and what another value would ask for."""

SAVED_HEADS = ("classifier", "score")
"""What `modules_to_save` may name: PEFT writes both for every adapter of task type SEQ_CLS."""

_MOST = 10**6
"""Ranks, alphas and their overrides stay below this."""

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
    """The declared base model; empty where the configuration names none."""
    rank: int
    alpha: float
    rslora: bool
    target_modules: tuple[str, ...] | None
    """Ends of the adapted modules' names; None where a pattern stands for them, or nothing."""
    rank_pattern: Overrides
    alpha_pattern: Overrides
    saved: tuple[str, ...] = ()
    """What `modules_to_save` names: none, or classification heads."""

    @property
    def max_rank(self) -> int:
        """The highest rank of any module."""
        return max(self.rank, *map(int, self.rank_pattern.values()), 0)

    def rank_of(self, module: str) -> int:
        """The rank of one module, the first fitting pattern's or the common one."""
        return int(self.rank_pattern.of(module) or self.rank)

    def scale_of(self, module: str) -> float:
        """What B A is multiplied with: alpha / r, or alpha / sqrt(r) for rsLoRA."""
        alpha, rank = self.alpha_pattern.of(module) or self.alpha, self.rank_of(module)
        return float(alpha / (rank**0.5 if self.rslora else rank))


def declared_base(data: bytes) -> str:
    """The base model that a configuration names, not judged.

    Raises `InvalidAdapter` if it cannot be read or names none.
    """
    config, findings = parse_config(data)
    if config is None:
        raise InvalidAdapter(f"adapter_config.json: {findings[0].problem} {findings[0].remedy}")
    if not config.base:
        raise InvalidAdapter(
            "adapter_config.json declares no base model. Give --base NAME, or set "
            "base_model_name_or_path to a registered name."
        )
    return config.base


def parse_config(data: bytes) -> tuple[LoraConfig | None, list[Finding]]:
    """The configuration and everything wrong with it; None where that forbids going on."""
    if len(data) > MAX_CONFIG_BYTES:
        return None, [Finding("It is far larger than any configuration.", "Export it again.")]
    try:
        # As vLLM opens it: UTF-8 and nothing else, without a byte order mark.
        text = data.decode("utf-8")
        raw = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except UnicodeDecodeError:
        return None, [Finding("It is not UTF-8 text.", "Save it as UTF-8.")]
    except (ValueError, RecursionError) as error:
        return None, [Finding(f"It is not valid JSON ({error}).", "Export it with PEFT again.")]
    if not isinstance(raw, dict):
        return None, [Finding("It is not a JSON object.", "Export it with PEFT again.")]
    if raw.get("peft_type") != "LORA":
        return None, [_other_method(raw)]
    findings = [*_unservable(raw), *_unknown(raw), *_init(raw)]
    fields = _Fields(raw, findings)
    config = LoraConfig(
        base=fields.text("base_model_name_or_path"),
        rank=fields.natural("r"),
        alpha=fields.positive("lora_alpha"),
        rslora=fields.flag("use_rslora"),
        target_modules=fields.modules(),
        rank_pattern=fields.pattern("rank_pattern", int),
        alpha_pattern=fields.pattern("alpha_pattern", int, float),
        saved=fields.saved(),
    )
    return config, findings


def _other_method(raw: dict[str, Any]) -> Finding:
    if "peft_type" not in raw and raw.keys() & _MLX:
        return Finding(
            "It describes an MLX adapter, whose tensors have other names and orientation.",
            "Convert it to PEFT's format first: transpose lora_a and lora_b, rename them to "
            "lora_A.weight and lora_B.weight, and write PEFT's configuration.",
        )
    if raw.get("peft_type") is None:
        return Finding(
            "peft_type is absent; PEFT cannot load an adapter without it.",
            'If it is a LoRA adapter, set peft_type to "LORA".',
        )
    return Finding(
        f"peft_type is {str(raw['peft_type'])[:40]!r}; only LORA can be served per request.",
        "Train a LoRA adapter, or merge this one into a model of its own.",
    )


def _unservable(raw: dict[str, Any]) -> list[Finding]:
    found = [
        Finding(
            f"{key} asks for {meaning}, which the server cannot apply per request.",
            f"Train without {key}, or merge the adapter into a model of its own.",
        )
        for key, (default, meaning) in UNSERVABLE.items()
        if raw.get(key, default) not in (default, *_NOTHING)
    ]
    if raw.get("bias", "none") in _NOTHING:
        found.append(Finding(f"bias is {raw['bias']!r}.", 'Set bias to "none", as vLLM expects.'))
    return found


def _unknown(raw: dict[str, Any]) -> list[Finding]:
    known = IGNORED | UNSERVABLE.keys() | _Fields.KEYS
    found = []
    for key in sorted(raw.keys() - known):
        if raw[key] in _NOTHING:
            continue
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
            "modules_to_save",
            "peft_type",
            "r",
            "rank_pattern",
            "target_modules",
            "target_parameters",
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
        """Empty if it is absent or null: then the publisher says it with the request."""
        value = self._raw.get(key) or ""
        if isinstance(value, str):
            return value
        self._wrong(key, "the base model's registered name")
        return ""

    def natural(self, key: str) -> int:
        value = self._raw.get(key)
        if type(value) is int and 0 < value < _MOST:
            return value
        self._wrong(key, "a positive whole number")
        return 0

    def positive(self, key: str) -> float:
        value = self._raw.get(key)
        if (type(value) is int or type(value) is float) and 0 < value < _MOST:
            return float(value)
        self._wrong(key, "a positive number")
        return 0.0

    def flag(self, key: str) -> bool:
        value = self._raw.get(key)
        if value is None or isinstance(value, bool):
            return bool(value)
        self._wrong(key, "true or false")
        return False

    def modules(self) -> tuple[str, ...] | None:
        """None for a pattern (it is not run), for null and for none: the tensors say which."""
        value = self._raw.get("target_modules")
        if "target_modules" not in self._raw:
            self._findings.append(
                Finding("target_modules is absent.", "Set it to the adapted modules, or to null.")
            )
            return None
        if not value or isinstance(value, str):
            return None
        owners = [name.rpartition(".")[0] for name in self._names("target_parameters")]
        return tuple(sorted((*self._names("target_modules"), *filter(None, owners))))

    def saved(self) -> tuple[str, ...]:
        """Only classification heads of whole texts can be served beside LoRA."""
        value = self._raw.get("modules_to_save")
        if value in _NOTHING:
            return ()
        if not isinstance(value, list) or not all(name in SAVED_HEADS for name in value):
            self._findings.append(
                Finding(
                    "modules_to_save asks for fully trained modules, which the server cannot apply "
                    "per request; only a classification head called score can be served.",
                    "Train without modules_to_save, or merge the adapter into a model of its own.",
                )
            )
            return ()
        task = self._raw.get("task_type")
        if task not in ("SEQ_CLS", *_NOTHING):
            self._findings.append(
                Finding(
                    f"task_type is {str(task)[:40]!r}, and the adapter has a head.",
                    "Only heads that classify or score a whole text are served: SEQ_CLS.",
                )
            )
        return tuple(value)

    def _names(self, key: str) -> list[str]:
        value = self._raw.get(key) or []
        if (
            isinstance(value, list)
            and len(value) <= MAX_LISTED
            and all(isinstance(name, str) and is_module(name) for name in value)
        ):
            return value
        self._wrong(key, f'a list of up to {MAX_LISTED} module names such as ["q_proj", "v_proj"]')
        return []

    def pattern(self, key: str, *kinds: type) -> Overrides:
        value = self._raw.get(key) or {}
        if (
            isinstance(value, dict)
            and len(value) <= MAX_LISTED
            and all(is_module(name.removeprefix("^")) for name in value)
            and all(type(number) in kinds and 0 < number < _MOST for number in value.values())
        ):
            return Overrides(value)
        self._wrong(
            key,
            f"a map of up to {MAX_LISTED} plain module names (no regular expressions) to numbers",
        )
        return Overrides({})


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found
