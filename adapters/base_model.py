"""What the registry knows of a base model: its name, its digest and its linear modules' shapes.

It does not know weights: shapes are read from the headers of the model's safetensors files.
"""

import hashlib
from pathlib import Path

import msgspec

from adapters.errors import InvalidAdapter
from adapters.safetensors_header import read_header

_NOT_LINEAR = ("embed", "norm", "wte", "wpe", "lm_head")


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

    @classmethod
    def from_directory(
        cls, directory: Path, name: str, known_as: tuple[str, ...] = ()
    ) -> "BaseModel":
        """Describe a Hugging Face checkpoint of safetensors files, sharded or not.

        Its linear modules are the two-dimensional `*.weight` tensors that are neither embeddings
        nor norms. Raises `InvalidAdapter` if the directory holds no such checkpoint.
        """
        weights = sorted(directory.glob("*.safetensors"))
        config = directory / "config.json"
        if not weights or not config.is_file():
            raise InvalidAdapter(
                f"{directory} holds no model (config.json and *.safetensors). "
                "Name the directory that save_pretrained wrote."
            )
        modules = {}
        for path in weights:
            with path.open("rb") as file:
                for tensor in read_header(file, path.stat().st_size):
                    module, dot, kind = tensor.name.rpartition(".")
                    linear = not any(word in module for word in _NOT_LINEAR)
                    if dot and kind == "weight" and len(tensor.shape) == 2 and linear:
                        modules[module] = (tensor.shape[0], tensor.shape[1])
        return cls(name, _digest([config, *weights]), modules, known_as)


def _digest(files: list[Path]) -> str:
    listed = []
    for path in files:
        with path.open("rb") as file:
            listed.append((path.name, hashlib.file_digest(file, "sha256").hexdigest()))
    return hashlib.sha256(msgspec.json.encode(listed)).hexdigest()
