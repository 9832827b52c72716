"""Trainings that processes share, one after another, in one start of Python.

    python -m torch.distributed.run --nproc-per-node 2 -m tests.support.shared_trainings BASE FOLDER

Each FOLDER/NAME.yaml is trained into FOLDER/shared/NAME.
"""

import sys
from pathlib import Path

import torch

from adapters import recipes
from adapters.training.run import train


def main(base: str, folder: str) -> None:
    """Train every recipe."""
    for recipe in sorted(Path(folder).glob("*.yaml")):
        out = Path(folder, "shared", recipe.stem)
        train(recipes.load(str(recipe)), Path(base), out, progress=lambda *_: None)
        torch.distributed.barrier()  # what the first process wrote may be read by the next recipe


if __name__ == "__main__":
    main(*sys.argv[1:])
