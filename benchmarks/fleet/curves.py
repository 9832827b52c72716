"""What one replica does by how many ask at once: what `lorary plan` and the simulation go by.

python -m benchmarks.fleet.curves --json docs/curves/cpu-one-core.json
"""

import argparse
import asyncio
import json
import os
import tempfile
from pathlib import Path
from statistics import median

import msgspec

from benchmarks.fleet.site import MEMORY, Fleet, fleet, names, open_front
from benchmarks.fleet.traffic import TOKENS, load
from benchmarks.load import percentile
from serving.planning import Curve, Point

ADAPTERS = 24
RANK = 4


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", type=Path, required=True, help="write the curve to this file")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        fleet(Path(folder), replicas=1, adapters=ADAPTERS) as made,
    ):
        open_front(made, "affinity")
        made.settle(1)
        curve = measure(made, options.at_once, options.seconds)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    document = json.dumps(msgspec.to_builtins(curve), indent=1) + "\n"
    options.json.write_text(document)
    print(document)


def measure(made: Fleet, at_once: list[int], seconds: float) -> Curve:
    """The curve of the fleet's only replica."""
    every = names(ADAPTERS)
    bucket = _one_by_one(made, every)
    # All of them were asked for, so the engine gave back the first: they are on disk now.
    disk = _one_by_one(made, every[: ADAPTERS - MEMORY])
    warm = every[:MEMORY]
    _one_by_one(made, warm)
    resident = _one_by_one(made, warm)
    points = [_point(made, warm, callers, seconds) for callers in at_once]
    stored = sum(info.size for info in made.scene.registry.store.list("blobs/"))
    return Curve(
        hardware=f"one core of {os.cpu_count()} of a CPU machine",
        model="smollm2-135m-instruct",
        tokens=TOKENS,
        rank=RANK,
        adapter_bytes=stored // ADAPTERS,
        points=tuple(points),
        cold_disk=max(0.0, median(disk) - median(resident)),
        cold_bucket=max(0.0, median(bucket) - median(resident)),
    )


def _point(made: Fleet, models: list[str], callers: int, seconds: float) -> Point:
    answers = asyncio.run(
        load(
            made.fronts["affinity"].url,
            models,
            made.headers,
            seconds=seconds,
            callers=callers,
            seed=callers,
        )
    )
    firsts = [answer.first for answer in answers]
    point = Point(callers, len(answers) / seconds, median(firsts), percentile(firsts, 0.99))
    print(f"  {point}", flush=True)
    return point


def _one_by_one(made: Fleet, models: list[str]) -> list[float]:
    """Seconds to the first token, nobody else asking."""
    url, found = made.fronts["affinity"].url, []
    for model in models:
        [answer] = asyncio.run(
            load(url, [model], made.headers, seconds=60, callers=1, seed=0, requests=1)
        )
        found.append(answer.first)
    return found


if __name__ == "__main__":
    main()
