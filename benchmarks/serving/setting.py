"""What is measured on what: the base model, vLLM's options, sizes, and the machine that ran it."""

import argparse
import dataclasses
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.base_model import BaseModel
from adapters.home import SMALL_MODEL, default_model
from adapters.small_model import build
from serving.hardware.devices import GIB
from serving.hardware.memory import Shape
from serving.sizing import read_machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One measurement's choices; those of a CPU with the small model by default."""

    model: Path
    base: BaseModel
    shape: Shape
    options: tuple[str, ...] = ()
    """vLLM's, for every server that is compared."""
    slots: int = 4
    """--max-loras"""
    places: int = 8
    """--max-cpu-loras: no more names are known to the engine."""
    callers: tuple[int, ...] = (1, 4, 16)
    tokens: int = 48
    """Of an answer."""
    words: int = 8
    """Of a prompt; about as many tokens."""
    rounds: int = 2
    sizes: tuple[int, ...] = (1, 10, 100, 1000, 10_000)
    """Of the library, for the part working-set."""
    loaders: int = 1
    """Processes that send requests."""
    patience: int = 400
    """Seconds in which a server must be up."""
    disk_bytes: int = 800_000_000
    """Room for adapters on the replica's disk."""

    @property
    def at_once(self) -> int:
        """Callers of the parts that do not vary them: a quarter of the most."""
        return max(self.slots, max(self.callers) // 4)

    @property
    def settle(self) -> float:
        """Seconds before each load; see `Load`."""
        return 1.5 if self.is_small else 0.2

    @property
    def is_small(self) -> bool:
        """Whether it is a model for CPUs, of which rounds are short."""
        return self.shape.weight_bytes < GIB

    def label(self) -> dict[str, Any]:
        """What figures were made on, to stand beside them."""
        machine = read_machine()
        gpus = [gpu.name for gpu in machine.gpus]
        return {
            "model": self.base.name,
            "weight_gib": round(self.shape.weight_bytes / GIB, 2),
            "hardware": ", ".join(gpus) or f"{platform.machine()} CPU",
            "cores": machine.cpus,
            "slots": self.slots,
            "places": self.places,
            "options": list(self.options),
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `read`."""
    parser.add_argument("--model", type=Path, help="the base model's folder (default: the small)")
    parser.add_argument("--base-name", default=SMALL_MODEL, help="its name (default: %(default)s)")
    parser.add_argument("--slots", type=int, help="adapters in a batch (default: 4)")
    parser.add_argument("--places", type=int, help="adapters in host memory (default: 8)")
    parser.add_argument("--callers", help="how many at once, such as 1,64,256 (default: 1,4,16)")
    parser.add_argument("--tokens", type=int, help="of an answer (default: 48)")
    parser.add_argument("--words", type=int, help="of a prompt (default: 8)")
    parser.add_argument("--rounds", type=int, help="paired rounds (default: 2)")
    parser.add_argument("--sizes", help="of the library (default: 1,10,100,1000,10000)")
    parser.add_argument("--patience", type=int, help="for a server's start, s (default: 400)")
    parser.add_argument("--loaders", type=int, help="processes that ask (default: 1)")
    parser.add_argument("--disk-bytes", type=int, help="the replica's cache (default: 800 MB)")


def read(chosen: argparse.Namespace, options: tuple[str, ...]) -> Setting:
    """The setting of a command line.

    A folder without weight files is for vLLM's `--load-format dummy`: its modules are those of its
    config.json.
    """
    if chosen.model is None:
        build(default_model())
    model = (chosen.model or default_model()).resolve()
    shape = Shape.of(
        json.loads((model / "config.json").read_text()),
        sum(file.stat().st_size for file in model.glob("*.safetensors")) or None,
    )
    if shape is None:
        raise SystemExit(f"{model}/config.json does not say what the model looks like")
    given = {
        field.name: getattr(chosen, field.name)
        for field in dataclasses.fields(Setting)
        if field.name != "model" and getattr(chosen, field.name, None) is not None
    }
    for name in ("callers", "sizes"):
        if name in given:
            given[name] = tuple(int(part) for part in given[name].split(","))
    base = (
        BaseModel.from_directory(model, chosen.base_name)
        if any(model.glob("*.safetensors"))
        else without_weights(shape, chosen.base_name)
    )
    return Setting(model=model, base=base, shape=shape, options=options, **given)


def without_weights(shape: Shape, name: str) -> BaseModel:
    """A base model of that shape in the names of Llama's modules, and no weights to digest."""
    modules = {
        f"model.layers.{layer}.{'mlp' if kind in MLP else 'self_attn'}.{kind}": size
        for layer in range(shape.layers)
        for kind, size in shape.modules.items()
    }
    return BaseModel(name, "0" * 64, modules)


MLP = ("gate_proj", "up_proj", "down_proj")
