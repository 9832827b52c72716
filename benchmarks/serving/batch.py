"""What different adapters in a batch cost: the same load on the base model and on 1, 8 and as many
adapters as there are slots; all of them loaded. Each variant of Lorary's settings is measured, and
bare vLLM, whose order of requests is its own.
"""

from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from benchmarks.load import spread
from benchmarks.servers import Served
from benchmarks.serving.library import Kind
from benchmarks.serving.pair import Pair
from benchmarks.serving.streams import Ask


def measure(pair: Pair, *, quick: bool) -> dict[str, Any]:
    """Requests a second by server and number of adapters."""
    slots, callers = pair.setting.slots, pair.setting.at_once
    rounds, count = (1, callers) if quick else (pair.setting.rounds, 2 * callers)
    few = sorted({1, min(8, slots), slots})
    sides = [(pair.gated, [0, *few]), (pair.bare, [0, *few])]
    sides += [(served, few) for served in pair.variants]
    print(f"\n{callers} callers over so many adapters, {rounds} rounds of {count}; requests/s")
    pair.grow(slots, "small")
    for number in range(slots):
        pair.library.local(number)
    rows = [
        _row(pair, served, adapters, "large", rounds, count)
        for served, counts in sides
        for adapters in counts
    ]
    rows.append(_row(pair, pair.gated, slots, "small", rounds, count))
    return {"rows": rows, "callers": callers}


def _row(
    pair: Pair, served: Served, adapters: int, kind: Kind, rounds: int, count: int
) -> dict[str, Any]:
    library, callers = pair.library, pair.setting.at_once
    names = [library.name(n, kind) for n in range(adapters)] or [pair.setting.base.name]

    def asks(count: int, tokens: int | None = None) -> list[Ask]:
        return [pair.ask(names[n % len(names)], tokens) for n in range(count)]

    pair.run(served, asks(max(len(names), callers), 4), at_once=callers)
    rates = [pair.run(served, asks(count), at_once=callers).rate for _ in range(rounds)]
    print(f"  {served.name:22} {adapters:3} {kind:6} {spread(rates, '.1f'):>24}", flush=True)
    return {"server": served.name, "kind": kind, "adapters": adapters, "rates": rates}


def draw(figures: dict[str, Any], path: Path) -> None:
    """Requests a second by the number of adapters, a line for each server."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    rows = [row for row in figures["rows"] if row["kind"] == "large"]
    counts = sorted({row["adapters"] for row in rows})
    places = {count: place for place, count in enumerate(counts)}
    for server in dict.fromkeys(row["server"] for row in rows):
        own = [row for row in rows if row["server"] == server]
        at = [places[row["adapters"]] for row in own]
        axes.plot(at, [median(row["rates"]) for row in own], marker="o", label=server)
    axes.set_xticks(range(len(counts)), [str(count) if count else "base" for count in counts])
    axes.set_xlabel(f"different adapters of {figures['callers']} callers")
    axes.set_ylabel("requests a second")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
