"""What the registry knows of a base model: its name, its digest and its linear modules' shapes.

It does not know weights: shapes are read from the headers of the model's safetensors files.
"""

import msgspec


class BaseModel(msgspec.Struct, frozen=True):
    """A base model that adapters are declared against."""

    name: str
    """The name adapters put in `base_model_name_or_path` and callers may request."""
    digest: str
    """SHA-256 over config.json and every weight file's digest; hexadecimal."""
    modules: dict[str, tuple[int, int]]
    """Module path (`model.layers.0.self_attn.q_proj`) to its weight's (out, in) features."""
    known_as: tuple[str, ...] = ()
    """Other names under which the same weights are published."""

    def is_called(self, name: str) -> bool:
        """Whether an adapter that declares `name` declares this model."""
        return name == self.name or name in self.known_as
