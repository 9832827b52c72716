"""Feedback by many callers at once, on a real S3 server: one commit each, and in groups.

    python -m benchmarks.feedback

Two registries lie on the same server. In each round, every caller gives its opinions one after the
other, each once the one before was acknowledged: at one registry, which writes each command in a
commit of its own; at another, which writes what waits together; and at one that also pauses between
commits, as the service does. Rounds take turns. Prints medians with the range, and the ratios.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median

from registry.model.domains import CreateDomain
from registry.model.feedback import GiveFeedback
from registry.model.policies import Policy
from registry.registry import MAX_GROUP, Registry
from registry.store import open_store
from tests.support.catalogs import publish_bytes
from tests.support.s3 import BUCKET, s3_server

numbers = count()


@dataclass
class Side:
    """A registry, and what was measured of it."""

    name: str
    max_group: int
    pause: float
    rates: list[float] = field(default_factory=list)
    """Opinions acknowledged in a second."""
    commits: list[float] = field(default_factory=list)
    """For each opinion."""
    slowest: list[float] = field(default_factory=list)
    """Seconds until the slowest acknowledgement of a round."""

    def open(self, endpoint: str) -> None:
        """Begin the registry."""
        store = open_store(f"s3://{BUCKET}/{self.name.replace(' ', '-')}", s3_endpoint=endpoint)
        self.key = Registry.create(store, name="bench", key_name="bench").id
        self.registry = Registry(store, pause=self.pause, max_group=self.max_group)
        self.registry.execute(CreateDomain("bench", Policy(guarded=())), self.key)
        publish_bytes(self.registry, self.key, "bench", "coder", 0)

    def round(self, callers: int, each: int) -> None:
        """So many callers give so many opinions each."""
        before, began = self.registry.catalog.sequence, time.perf_counter()
        with ThreadPoolExecutor(callers) as pool:
            waited = list(pool.map(self._give, [each] * callers))
        self.rates.append(callers * each / (time.perf_counter() - began))
        self.commits.append((self.registry.catalog.sequence - before) / (callers * each))
        self.slowest.append(max(waited))

    def _give(self, opinions: int) -> float:
        slowest = 0.0
        for _ in range(opinions):
            name, began = f"chatcmpl-{next(numbers)}", time.perf_counter()
            at = int(time.time())
            given = GiveFeedback("bench", "coder", 1, name, at, "app", "positive")
            if not self.registry.execute(given, self.key):
                raise SystemExit("a new opinion was not counted")
            slowest = max(slowest, time.perf_counter() - began)
        return slowest


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--each", type=int, default=5, help="opinions of a caller in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pause", type=float, default=2.0)
    options = parser.parse_args()
    sides = [
        Side("one commit each", 1, 0.0),
        Side("in groups", MAX_GROUP, 0.0),
        Side("in groups with a pause", MAX_GROUP, options.pause),
    ]
    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder)) as server:
        os.environ.update(server.environment)
        for side in sides:
            side.open(server.endpoint)
        for _ in range(options.rounds):
            for side in sides:
                side.round(options.callers, options.each)
        for side in sides:
            side.registry.close()
    print(f"{options.callers} callers at once, {options.rounds} rounds of {options.each} opinions")
    for side in sides:
        print(f"  {side.name}")
        print(f"    opinions a second        {_spread(side.rates)}")
        print(f"    commits for each         {_spread(side.commits, 3)}")
        print(f"    slowest answer, s        {_spread(side.slowest, 2)}")
    for side in sides[1:]:
        rates = [b / a for a, b in zip(sides[0].rates, side.rates, strict=True)]
        fewer = [a / b for a, b in zip(sides[0].commits, side.commits, strict=True)]
        print(f"  {side.name} / {sides[0].name}")
        print(f"    opinions a second        {_spread(rates)} times")
        print(f"    commits                  1 / {_spread(fewer)}")


def _spread(values: Sequence[float], digits: int = 1) -> str:
    """Median and range."""
    shown = (f"{value:.{digits}f}" for value in (median(values), min(values), max(values)))
    return "{} [{} .. {}]".format(*shown)


if __name__ == "__main__":
    main()
