"""An adapter's tensors in the number format that they are published in."""

from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file

Saved = Literal["bfloat16", "float32"]


def save_as(source: Path, target: Path, saved_as: Saved) -> None:
    """Write the safetensors file `source` to `target` with its floating-point tensors so held."""
    dtype = getattr(torch, saved_as)
    tensors = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in load_file(source).items()
    }
    save_file(tensors, target, metadata={"format": "pt"})
