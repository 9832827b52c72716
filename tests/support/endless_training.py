"""One training in a process of its own, which after a given step waits to be killed.

    python -m tests.support.endless_training RECIPE BASE OUT STEP

Prints `step N` after each step.
"""

import sys
import time
from pathlib import Path

from adapters import recipes
from adapters.training.run import train


def main(recipe: str, base: str, out: str, last: str) -> None:
    """Train up to the step `last`."""

    def progress(step: int, _steps: int, _loss: float) -> None:
        print(f"step {step}", flush=True)
        if step == int(last):
            time.sleep(600)

    train(recipes.load(recipe), Path(base), Path(out), progress=progress)


if __name__ == "__main__":
    main(*sys.argv[1:])
