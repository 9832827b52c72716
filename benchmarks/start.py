"""How long a registry takes to start from a long log, with its checkpoints and without.

    python -m benchmarks.start --commits 100000
    python -m benchmarks.start --versions 1000000

The log is made of published versions, 100 to an adapter, as a registry would have written it, with
the checkpoints that are due. It lies on a local directory; on S3 each object read takes a few
milliseconds more, and their number is printed.

With --versions there is one checkpoint of so many versions and one commit after it; a process of
its own starts from them, and serves pages of the listing of adapters.
"""

import argparse
import hashlib
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks.counting import CountingStore
from registry.http import create_app
from registry.http.access import Caller
from registry.http.reading import list_adapters
from registry.log import checkpoints
from registry.log.commits import Commit, CommitLog, Stored, catch_up, commit_key, follow
from registry.model.base import Entry
from registry.model.bases import BaseModelRegistered
from registry.model.catalog import Catalog, File, Grant, Key
from registry.model.creation import RegistryCreated
from registry.model.domains import DefaultAdapterSet, DomainCreated
from registry.model.machine import fold
from registry.model.policies import Policy
from registry.model.versions import VersionPublished
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from tests.support.catalogs import FACTS

PER_ADAPTER = 100
TIME = "2026-01-01T00:00:00Z"


def main() -> None:
    """Write the log, start twice, print both times."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--commits", type=int, default=100_000)
    parser.add_argument("--versions", type=int, help="start from one checkpoint of so many")
    parser.add_argument("--from-store", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.from_store:
        start_and_serve(Path(options.from_store))
        return
    if options.versions:
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(LocalStore(Path(folder)), options.versions)
            own = [sys.executable, "-m", "benchmarks.start", "--from-store", folder]
            subprocess.run(own, check=True)
        return
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


def write_checkpoint(store: LocalStore, versions: int) -> None:
    """A checkpoint of so many versions, and the commit that confirms it."""
    Registry.create(store, name="bench", key_name="operator")
    catalog = checkpoints.load(store)
    for first in range(2, versions + 2, 10_000):
        entries = [e for n in range(first, min(first + 10_000, versions + 2)) for e in _entries(n)]
        catalog = fold(catalog, [*(_entries(1)[1:] if first == 2 else ()), *entries], TIME)
    catalog = msgspec.structs.replace(catalog, sequence=2, head="0" * 64, time=TIME)
    made = checkpoints.make(catalog)
    checkpoints.write(store, made)
    event = DefaultAdapterSet(domain="bench", adapter="a0")
    entries = [Entry("bench", event)]
    CommitLog(store).append(catalog, entries, TIME, made.confirmation)
    print(f"{versions:,} versions, {len(catalog.adapters):,} adapters")
    print(f"  checkpoint                 {len(made.data) / 1e6:8.0f} MB")


def start_and_serve(folder: Path) -> None:
    """Start from a checkpoint, and list adapters; print times and memory."""
    began = time.perf_counter()
    app = create_app(RegistrySettings(store=str(folder)))
    print(f"  start                      {time.perf_counter() - began:8.2f} s")
    print(f"  memory then, at most       {_memory('VmRSS'):8.0f} MB, {_memory('VmHWM'):.0f} MB")
    catalog: Catalog = app.state.registry.catalog
    key = Key(
        id="bench", name="bench", secret_sha256="", grants=(Grant("infer", "*"),), issued=TIME
    )
    caller = Caller(key, catalog, app.state.registry, app.state.settings)
    for limit in (100, 1000):
        times = []
        for _ in range(20):
            began = time.perf_counter()
            list_adapters(caller, None, "", "bench/a5", limit)
            times.append((time.perf_counter() - began) * 1000)
        shown = f"{statistics.median(times):8.1f} ms [{min(times):.1f} .. {max(times):.1f}]"
        print(f"  page of {limit:4} adapters      {shown}")


def _memory(name: str) -> float:
    """A line of /proc/self/status, in MB."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) / 1000


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
