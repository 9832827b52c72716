"""Every minor version of huggingface_hub from 0.30 on against a running registry, call by call.

    python -m benchmarks.hub_clients                        # every version; about ten minutes
    python -m benchmarks.hub_clients --versions 0.30.2 2.4.0 --calls create_tag
    python -m benchmarks.hub_clients --javascript           # @huggingface/hub; takes node and npm

Installs each version into the cache folder, makes the calls of `tests.support.hub_calls` with it,
and prints the table of docs/reference/hugging-face-calls.md; faults go to standard error.
"""

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry.client import RegistryClient
from registry.registry import Registry
from registry.store import open_store
from tests.support.adapters import TINY
from tests.support.hub_site import javascript, outcomes, prepare
from tests.support.servers import registry_server

LAST = {
    0: {30: 2, 31: 4, 32: 6, 33: 5, 34: 6, 35: 3, 36: 2},
    1: {
        **dict.fromkeys(range(34), 0),
        0: 1,
        1: 7,
        2: 4,
        3: 7,
        4: 1,
        7: 2,
        9: 2,
        10: 2,
        12: 2,
        16: 4,
    }
    | {20: 1, 25: 1, 26: 1},
    2: {0: 0, 1: 1, 2: 0, 3: 0, 4: 0},
}
VERSIONS = [f"{major}.{minor}.{p}" for major, minors in LAST.items() for minor, p in minors.items()]
"""The newest release of each minor version."""
JAVASCRIPT = "2.17.5"
Table = dict[str, dict[str, tuple[str, str]]]
"""By call and version: the outcome and the reason."""


def measure(versions: list[str], wanted: str, parallel: int) -> Table:
    """The outcome of every call under every version, on one registry."""
    table: Table = defaultdict(dict)
    with registry() as (served, client, folder), ThreadPoolExecutor(parallel) as pool:

        def under(version: str) -> list[dict[str, Any]]:
            domain = f"hub-{version.replace('.', '-')}"
            scene, key = prepare(client, domain, folder / version)
            return list(outcomes(served, key, scene, version, wanted=wanted))

        for version, seen in zip(versions, pool.map(under, versions), strict=True):
            note(table, version, seen)
    return table


def measure_javascript(version: str) -> Table:
    """The outcome of every call of @huggingface/hub."""
    table: Table = defaultdict(dict)
    with registry() as (served, client, folder):
        scene, key = prepare(client, "javascript", folder / "work")
        note(table, version, javascript(served, key, scene, version))
    return table


@contextmanager
def registry() -> Iterator[tuple[str, RegistryClient, Path]]:
    """A running registry on a local directory: its address, its operator, and a folder."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"{folder}/registry"
        operator = Registry.create(open_store(url), name="hub", key_name="operator").text
        with (
            registry_server(url, Path(folder)) as served,
            RegistryClient(served, operator) as client,
        ):
            client.add_base(TINY)
            yield served, client, Path(folder)


def note(table: Table, version: str, seen: list[dict[str, Any]]) -> None:
    """Add a version's outcomes to the table, and print its faults."""
    for each in seen:
        table[each["call"]][version] = each["outcome"], each["why"]
    faults = [each for each in seen if each["outcome"] == "fault"]
    print(f"{version}: {len(faults)} faults", file=sys.stderr, flush=True)
    for each in faults:
        print(f"  {each['call']}: {each['why'][:1000]}", file=sys.stderr, flush=True)


def markdown(table: Table, versions: list[str]) -> str:
    """The calls by their outcome, with the versions that have them where not all do."""
    calls: dict[str, list[str]] = defaultdict(list)
    for name, row in table.items():
        spans: list[tuple[str, str, str]] = []
        for version in versions:
            outcome = row[version][0]
            if spans and spans[-1][0] == outcome:
                spans[-1] = (outcome, spans[-1][1], version)
            else:
                spans.append((outcome, version, version))
        if len(spans) == 1:
            calls[spans[0][0]].append(name)
        for outcome, first, last in spans if len(spans) > 1 else []:
            if outcome != "absent":
                calls[f"{outcome}, {_minor(first)} to {_minor(last)}"].append(name)
    order = sorted(calls, key=lambda outcome: (outcome.split(",")[0] != "works", "," in outcome))
    lines = [f"| {outcome} | {'; '.join(calls[outcome])} |" for outcome in order]
    return "\n".join(["| outcome | calls |", "|---|---|", *lines])


def _minor(version: str) -> str:
    return version.rpartition(".")[0]


def main() -> None:
    """Print the table, and fail if a call is at fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", nargs="+", default=VERSIONS)
    parser.add_argument("--calls", default="", help="only calls whose names begin so")
    parser.add_argument("--parallel", type=int, default=4, help="versions at once")
    parser.add_argument("--javascript", action="store_true", help=f"@huggingface/hub {JAVASCRIPT}")
    arguments = parser.parse_args()
    if arguments.javascript:
        versions, table = [JAVASCRIPT], measure_javascript(JAVASCRIPT)
    else:
        versions = arguments.versions
        table = measure(versions, arguments.calls, arguments.parallel)
    print(markdown(table, versions))
    outcomes_seen = {outcome for row in table.values() for outcome, _ in row.values()}
    raise SystemExit("fault" in outcomes_seen)


if __name__ == "__main__":
    main()
