"""How long a follower takes that is far behind, on a real S3 server whose reads keep failing.

    python -m benchmarks.behind --commits 100000 --one-in 200

A follower reads a registry of a few commits. Then so many more are written, without checkpoints,
and the follower looks until it has caught up, while one read in `--one-in` finds the store away.
"""

import argparse
import os
import random
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from adapters.errors import LoraryError
from registry.errors import StoreUnavailable
from registry.log.commits import Commit, commit_key, decode, follow
from registry.log.follower import Follower
from registry.model.base import Entry
from registry.model.domains import DomainCreated, PolicyChanged
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import open_store
from registry.times import utc_now
from tests.support.s3 import BUCKET, s3_server

WRITERS = 16


class Failing:
    """Passes everything on, but one read in `one_in` finds the store away."""

    def __init__(self, store: Any, one_in: int) -> None:
        self._store, self._one_in = store, one_in
        self._chance, self._lock = random.Random(1), threading.Lock()
        self.reads = self.failed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get(self, key: str) -> bytes:
        """An object, or `StoreUnavailable`."""
        with self._lock:
            self.reads += 1
            fails = self._chance.randrange(self._one_in) == 0
            self.failed += fails
        if fails:
            raise StoreUnavailable("injected: the store is away")
        data: bytes = self._store.get(key)
        return data


def main() -> None:
    """Write the log, follow it, print how long that took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--commits", type=int, default=100_000)
    parser.add_argument("--one-in", type=int, default=200, help="one read in so many fails")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder)) as s3:
        os.environ |= s3.environment
        store = open_store(f"s3://{BUCKET}/behind", s3_endpoint=s3.endpoint)
        Registry.create(store, name="bench", key_name="operator")
        failing = Failing(store, options.one_in)
        follower = Follower(failing)
        _until(follower, 1)
        began = time.perf_counter()
        last = write(store, follower.catalog, options.commits)
        print(f"{options.commits:,} commits written in {time.perf_counter() - began:.0f} s")
        failing.reads = failing.failed = 0
        began = time.perf_counter()
        looks = _until(follower, last)
        took = time.perf_counter() - began
    print(f"  caught up in {took:.1f} s: {options.commits / took:,.0f} commits a second")
    print(f"  {looks:,} looks, {failing.reads:,} reads, {failing.failed:,} of them failed")


def _until(follower: Follower, sequence: int) -> int:
    """Look until the follower has read commit `sequence`; how many looks that took."""
    looks = 0
    while follower.catalog.sequence < sequence:
        looks += 1
        try:
            follower.refresh()
        except LoraryError:
            continue
    return looks


def write(store: Any, catalog: Any, commits: int) -> int:
    """That many commits after `catalog`, put by several threads; the last one's number."""
    now, waiting = utc_now(), []
    first = DomainCreated(domain="d", policy=Policy())
    with ThreadPoolExecutor(WRITERS) as pool:
        for number in range(commits):
            policy = Policy(keep=number % 50 + 1)
            event = PolicyChanged(domain="d", policy=policy) if number else first
            commit = Commit(
                sequence=catalog.sequence + 1,
                id=f"{number:032x}",
                time=now,
                previous=catalog.head,
                entries=(Entry("bench", event),),
            )
            data = msgspec.json.encode(commit)
            catalog = follow(catalog, decode(data, commit.sequence))
            waiting.append(pool.submit(store.put, commit_key(commit.sequence), data, "create"))
        for one in waiting:
            one.result()
    return int(catalog.sequence)


if __name__ == "__main__":
    main()
