"""The three adapters that all journeys use, trained ahead: python -m tests.support.specialists

On what the tests that run meanwhile leave idle.
"""

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from adapters.home import home
from adapters.packs import PACKS
from tests.support.servers import BIN


def training(domain: str) -> tuple[Path, Sequence[str]]:
    """Where a domain's adapter is kept, and the command that trains it unless it is there.

    The demo's own, if it trained one here; else one that was asked no general questions, which take
    a tenth of the training.
    """
    demo = home() / "demo" / "adapters" / domain
    directory, changes = (
        (demo, []) if demo.exists() else (home() / "journeys" / domain, ["forgetting=false"])
    )
    command = [str(BIN / "lorary"), "train", domain, *changes, "--out", str(directory), "--reuse"]
    return directory, command


def train(domain: str) -> None:
    """Train a domain's adapter unless it is there; only a failure's output is shown."""
    _, command = training(domain)
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stdout[-4000:])


def main() -> None:
    """Train them, all at once: one alone would leave a core idle once the other tests end."""
    os.nice(19)
    with ThreadPoolExecutor(len(PACKS)) as pool:
        list(pool.map(train, PACKS))


if __name__ == "__main__":
    main()
