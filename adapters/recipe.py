"""How an adapter is trained: every number that changes the result, in one frozen struct."""

import hashlib

import msgspec

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Supervised fine-tuning with LoRA (Hu et al., arXiv 2106.09685); loss on the answer only."""

    method: str = "sft"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ALL_LINEAR
    learning_rate: float = 1e-3
    schedule: str = "linear"
    warmup_steps: int = 5
    batch: int = 16
    steps: int = 70
    max_tokens: int = 256
    """Prompt and answer together; a longer example is cut."""
    seed: int = 0

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: the recipe's identity in provenance."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()

    def changed(self, assignments: list[str]) -> "Recipe":
        """The recipe with `key=value` assignments applied; raises `ValueError` naming the key."""
        fields = msgspec.structs.asdict(self)
        for assignment in assignments:
            key, equals, value = assignment.partition("=")
            if not equals or key not in fields:
                raise ValueError(f"{assignment!r}: use KEY=VALUE with one of {', '.join(fields)}")
            fields[key] = value.split(",") if isinstance(fields[key], tuple) else value
        return msgspec.convert(fields, Recipe, strict=False)
