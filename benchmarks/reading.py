"""What stays of adapters that a process read and gave back: safetensors, by PyTorch and numpy.

    python -m benchmarks.reading

One file of as many tensors as an adapter of the small model has is read over and over, each reader
in a process of its own. vLLM reads every adapter so, at each load into the engine.
"""

import argparse
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
from safetensors import safe_open
from safetensors.numpy import save_file

TENSORS = 420
SETTLED = 200
"""Readings after which a process has what it needs."""


def main() -> None:
    """Read in both ways, and print what stays."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=2000)
    parser.add_argument("--reader", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reader:
        print(kept(options.reader[0], Path(options.reader[1]), options.times))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "adapter.safetensors")
        tensors = {f"layer.{i}.lora_A.weight": np.zeros((4, 576), "f4") for i in range(TENSORS)}
        save_file(tensors, file)
        print(
            f"safetensors {version('safetensors')}, {TENSORS} tensors, read {options.times} times"
        )
        for framework in ("pt", "np"):
            command = [sys.executable, "-m", "benchmarks.reading", "--times", str(options.times)]
            done = subprocess.run(
                [*command, "--reader", framework, str(file)],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            each = float(done.stdout) / TENSORS
            print(f"  {framework}: {each:.0f} bytes stay for each tensor read")


def kept(framework: str, file: Path, times: int) -> float:
    """Bytes by which one more reading makes this process larger."""
    before = 0
    for number in range(times):
        with safe_open(file, framework=framework) as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no dictionary
                opened.get_tensor(name)
        if number == SETTLED:
            before = psutil.Process().memory_info().rss
    now = int(psutil.Process().memory_info().rss)
    return (now - before) / (times - 1 - SETTLED)


if __name__ == "__main__":
    main()
