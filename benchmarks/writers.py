"""The log's promises under many writers and every fault of a store, in as many steps as you like.

    python -m benchmarks.writers --steps 100000

Each step is one operation of one process on the store. Raises, with exit code 1, at the first seed
after which something acknowledged is lost, something took effect twice, or what was refused is in
the log all the same. Nothing here is a measurement but the time it takes.
"""

import argparse
import time
from collections import Counter

from tests.support.simulation import simulate


def main() -> None:
    """Simulate seed after seed and print what was tried."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--each", type=int, default=5000, help="steps of one seed")
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    options = parser.parse_args()
    began, steps, faults, seed = time.monotonic(), 0, Counter[str](), options.seed
    told = Counter[str]()
    while steps < options.steps:
        world = simulate(seed, writers=options.writers, steps=options.each)
        steps, seed, faults = steps + world.steps, seed + 1, faults + world.faults
        told["commits"] += sum(key.startswith("log/") for key in world.objects)
        told["acknowledged"] += sum(world.told.acknowledged.values())
        told["refused"] += len(world.told.refused)
        told["in doubt"] += len(world.told.unknown)
        print(f"\r{steps:,} of {options.steps:,} steps", end="", flush=True)
    print(f"\r{steps:,} steps of {options.writers} writers in {time.monotonic() - began:.0f} s")
    for title, counts in (("commands", told), ("faults", faults)):
        print(f"  {title}: {', '.join(f'{n:,} {name}' for name, n in sorted(counts.items()))}")


if __name__ == "__main__":
    main()
