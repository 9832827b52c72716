"""What the registry knows of a base model: name, digest, and each linear module's shape and norm.

It does not keep weights: they are read once, from the model's safetensors files, in pieces.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from math import isfinite
from pathlib import Path

import msgspec

from adapters.errors import InvalidAdapter
from adapters.safetensors_header import FLOATS, TensorInfo, read_header

_NOT_LINEAR = ("embed", "norm", "wte", "wpe", "lm_head")
_UNPACKED = {*FLOATS, "F64", "F8_E4M3", "F8_E5M2", "I8"}
"""Types of weights whose shape is that of the module."""
_PACKED = (".qweight", ".weight_packed", "_blocks", ".W_q", ".codes", ".Qidxs")
"""Endings of tensors that hold several weights in one number: GPTQ and AWQ, compressed-tensors,
MXFP4, HQQ, AQLM, QuIP#."""

Progress = Callable[[str, int, int], None]
"""Called with a file's name, how many of its bytes are read, and how many there are."""


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
    norms: dict[str, float] = {}
    """Frobenius norm of a module's weight, where it was measured: not of 8-bit weights, nor of
    bases that earlier versions registered."""

    def is_called(self, name: str) -> bool:
        """Whether an adapter that declares `name` declares this model.

        Upper and lower case are the same, as on the Hub: Unsloth writes lower case.
        """
        return is_among(name, (self.name, *self.known_as))

    @classmethod
    def from_directory(
        cls,
        directory: Path,
        name: str,
        known_as: tuple[str, ...] = (),
        *,
        progress: Progress | None = None,
    ) -> "BaseModel":
        """Describe a Hugging Face checkpoint of safetensors files, sharded or not.

        Its linear modules are the two-dimensional `*.weight` tensors that are neither embeddings
        nor norms. Reads every byte once. Raises `InvalidAdapter` if the directory holds no such
        checkpoint, or one whose weights are packed.
        """
        weights = sorted(directory.glob("*.safetensors"))
        config = directory / "config.json"
        if not weights or not config.is_file():
            raise InvalidAdapter(
                f"{directory} holds no model (config.json and *.safetensors). "
                "Name the directory that save_pretrained wrote."
            )
        headers = {path: _header(path) for path in weights}
        modules: dict[str, tuple[int, int]] = {}
        for info in (info for infos in headers.values() for info in infos):
            module = _linear(info)
            if info.name.endswith(_PACKED) or (module and info.dtype not in _UNPACKED):
                raise _packed(
                    directory, _quantisation(config) or "its config.json does not say how"
                )
            if module:
                modules[module] = (info.shape[0], info.shape[1])
        if not modules and (method := _quantisation(config)):
            raise _packed(directory, method)
        if not modules:
            raise InvalidAdapter(
                f"{directory} holds no linear modules (two-dimensional *.weight tensors). "
                "Register a decoder-only language model that save_pretrained wrote."
            )
        digests = [(config.name, hashlib.sha256(config.read_bytes()).hexdigest())]
        norms: dict[str, float] = {}
        for path, infos in headers.items():
            digests.append((path.name, _measure(path, infos, norms, progress)))
        digest = hashlib.sha256(msgspec.json.encode(digests)).hexdigest()
        return cls(name, digest, modules, known_as, norms)


def is_among(name: str, names: Iterable[str]) -> bool:
    """Whether a base is called `name`, in upper or lower case as the Hub takes it."""
    return name.casefold() in {known.casefold() for known in names}


def digest_of(directory: Path) -> str:
    """The digest that `from_directory` gives, without a look at the weights; "" for no model."""
    config, weights = directory / "config.json", sorted(directory.glob("*.safetensors"))
    if not weights or not config.is_file():
        return ""
    digests = []
    for path in (config, *weights):
        with path.open("rb") as file:
            digests.append((path.name, hashlib.file_digest(file, "sha256").hexdigest()))
    return hashlib.sha256(msgspec.json.encode(digests)).hexdigest()


def _header(path: Path) -> list[TensorInfo]:
    with path.open("rb") as file:
        return read_header(file, path.stat().st_size)


def _linear(info: TensorInfo) -> str:
    """The linear module that a tensor is the weight of; empty if it is none."""
    module, _, kind = info.name.rpartition(".")
    linear = kind == "weight" and len(info.shape) == 2
    return module if linear and not any(word in module for word in _NOT_LINEAR) else ""


def _packed(directory: Path, method: str) -> InvalidAdapter:
    return InvalidAdapter(
        f"{directory} is quantised ({method}): its files hold packed numbers instead of the "
        "modules' shapes. Register the unquantised checkpoint that it was made from, with this "
        "one's names as --known-as."
    )


def _quantisation(config: Path) -> str:
    """The method that config.json names; empty if it names none."""
    try:
        return str(json.loads(config.read_bytes())["quantization_config"]["quant_method"])[:40]
    except (ValueError, KeyError, TypeError):
        return ""


def _measure(
    path: Path, infos: list[TensorInfo], norms: dict[str, float], progress: Progress | None
) -> str:
    """The SHA-256 of a weight file; puts the norms of its linear modules into `norms`."""
    from adapters.tensor_values import floats, pieces  # brings in numpy, which few commands need

    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        # The tensors fill the file from here to its end, in this order, as the header's check says.
        for piece in pieces(file, 0, infos[0].begin if infos else size):
            digest.update(piece)
        for info in infos:
            module = _linear(info) if info.dtype in FLOATS else ""
            squares = 0.0
            for piece in pieces(file, info.begin, info.end):
                digest.update(piece)
                if module:
                    values = floats(piece, info.dtype).astype("float64")
                    squares += float(values @ values)
            if module and isfinite(squares):
                norms[module] = float(squares**0.5)
            if progress is not None:
                progress(path.name, info.end, size)
    return digest.hexdigest()
