"""Every minor version of huggingface_hub from 0.30 on against a running registry, call by call.

    python -m benchmarks.hub_clients                        # every version; about ten minutes
    python -m benchmarks.hub_clients --versions 0.30.2 2.4.0 --calls create_tag

Installs each version into the cache folder, makes the calls of `tests.support.hub_calls` with it,
and prints the table of docs/registry.md, then every fault.
"""

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path

from registry.client import RegistryClient
from registry.registry import Registry
from registry.store import open_store
from tests.support.adapters import TINY
from tests.support.hub_site import outcomes, prepare
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
Table = dict[str, dict[str, tuple[str, str]]]
"""By call and version: the outcome and the reason."""


def measure(versions: list[str], wanted: str) -> Table:
    """The outcome of every call under every version, on one registry."""
    table: Table = defaultdict(dict)
    with tempfile.TemporaryDirectory() as folder:
        url = f"{folder}/registry"
        operator = Registry.create(open_store(url), name="hub", key_name="operator").text
        with (
            registry_server(url, Path(folder)) as served,
            RegistryClient(served, operator) as client,
        ):
            client.add_base(TINY)
            for version in versions:
                work = Path(folder, version)
                scene, key = prepare(client, f"hub-{version.replace('.', '-')}", work)
                for seen in outcomes(served, key, scene, version, wanted=wanted):
                    table[seen["call"]][version] = seen["outcome"], seen["why"]
                counted = [row[version][0] for row in table.values() if version in row]
                print(f"{version}: {counted.count('fault')} faults", flush=True)
    return table


def markdown(table: Table, versions: list[str]) -> str:
    """One row a call: its outcome where the versions agree, else the outcomes by version."""
    lines = ["| call | outcome |", "|---|---|"]
    for name, row in table.items():
        spans: list[tuple[str, str, str]] = []
        for version in versions:
            outcome = row[version][0]
            if spans and spans[-1][0] == outcome:
                spans[-1] = (outcome, spans[-1][1], version)
            else:
                spans.append((outcome, version, version))
        offered = [span for span in spans if span[0] != "absent"]
        if not offered:
            lines.append(f"| {name} | absent |")
        elif len({span[0] for span in offered}) == 1:
            first, last = offered[0][1], offered[-1][2]
            some = "" if len(spans) == 1 else f" ({_minor(first)} to {_minor(last)})"
            lines.append(f"| {name} | {offered[0][0]}{some} |")
        else:
            told = "; ".join(f"{_minor(a)} to {_minor(b)}: {o}" for o, a, b in offered)
            lines.append(f"| {name} | {told} |")
    return "\n".join(lines)


def _minor(version: str) -> str:
    return version.rpartition(".")[0]


def main() -> None:
    """Print the table, and fail if a call is at fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", nargs="+", default=VERSIONS)
    parser.add_argument("--calls", default="", help="only calls whose names begin so")
    arguments = parser.parse_args()
    table = measure(arguments.versions, arguments.calls)
    print(markdown(table, arguments.versions))
    faults = [
        f"{name} under {version}: {why[:1000]}"
        for name, row in table.items()
        for version, (outcome, why) in row.items()
        if outcome == "fault"
    ]
    print("\n".join(faults))
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
