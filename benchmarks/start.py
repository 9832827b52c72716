"""How long a registry takes to start from a long log, with its checkpoints and without.

    python -m benchmarks.start --commits 100000

The log is made of published versions, 100 to an adapter, as a registry would have written it, with
the checkpoints that are due. It lies on a local directory; on S3 each object read takes a few
milliseconds more, and their number is printed.
"""

import argparse
import hashlib
import secrets
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks.counting import CountingStore
from registry.log import checkpoints
from registry.log.commits import Commit, CommitLog, Stored, catch_up, commit_key, follow
from registry.model.base import Entry
from registry.model.bases import BaseModelRegistered
from registry.model.catalog import Catalog, File
from registry.model.creation import RegistryCreated
from registry.model.domains import DomainCreated
from registry.model.policies import Policy
from registry.model.versions import VersionPublished
from registry.store import LocalStore
from tests.support.catalogs import FACTS

PER_ADAPTER = 100
TIME = "2026-01-01T00:00:00Z"


def main() -> None:
    """Write the log, start twice, print both times."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--commits", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(Path(folder))
        written = write_log(store, options.commits)
        counting = CountingStore(store)
        began = time.perf_counter()
        loaded = checkpoints.load(counting)
        with_checkpoint = time.perf_counter() - began
        reads = counting.counts.total()
        began = time.perf_counter()
        folded = catch_up(CommitLog(store), Catalog())
        without = time.perf_counter() - began
        if not loaded == folded == written:
            raise SystemExit("the two starts differ")
    print(f"{options.commits:,} commits, {len(loaded.adapters):,} adapters")
    print(f"  start with checkpoints     {with_checkpoint:8.2f} s, {reads:,} objects read")
    print(f"  start without              {without:8.2f} s, {options.commits + 1:,} objects read")


def write_log(store: LocalStore, commits: int) -> Catalog:
    """The log, written without waiting for the disk after each commit."""
    catalog = Catalog()
    (store.root / "log").mkdir(parents=True)
    for sequence in range(1, commits + 1):
        made = checkpoints.make(catalog) if checkpoints.due(catalog) else None
        commit = Commit(
            sequence=sequence,
            id=secrets.token_hex(16),
            time=TIME,
            previous=catalog.head,
            entries=_entries(sequence),
            checkpoint=made.confirmation if made else msgspec.UNSET,
        )
        data = msgspec.json.encode(commit)
        (store.root / commit_key(sequence)).write_bytes(data)
        catalog = follow(catalog, Stored(commit, hashlib.sha256(data).hexdigest()))
        if made:
            checkpoints.write(store, made)
    return catalog


def _entries(sequence: int) -> tuple[Entry, ...]:
    if sequence == 1:
        return (
            Entry("bench", RegistryCreated(registry="bench")),
            Entry("bench", BaseModelRegistered(name="tiny", digest="0" * 64, shapes="0" * 64)),
            Entry("bench", DomainCreated(domain="bench", policy=Policy())),
        )
    number = sequence - 2
    published = VersionPublished(
        domain="bench",
        adapter=f"a{number // PER_ADAPTER}",
        version=number % PER_ADAPTER + 1,
        digest=f"{number:064x}",
        base="tiny",
        files=(File("adapter_model.safetensors", number, f"{number:064x}"),),
        facts=FACTS,
    )
    return (Entry("bench", published),)


if __name__ == "__main__":
    main()
