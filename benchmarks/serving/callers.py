"""What the gate costs: the same load on `lorary serve` and on bare vLLM, by the number of callers.

One adapter, loaded on both; every prompt is another one. Rounds alternate between the two.
"""

from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from benchmarks.load import percentile, spread
from benchmarks.servers import Served
from benchmarks.serving.pair import Pair, cpu

GOAL = 0.99


def measure(pair: Pair, *, quick: bool) -> dict[str, Any]:
    """Requests a second, milliseconds to the first token, CPU of the API process."""
    rounds = pair.setting.rounds
    print(f"\nOne adapter, answers of {pair.setting.tokens} tokens, {rounds} paired rounds")
    print(
        f"  {'callers':>7} {'':24} {'to bare vLLM':>22} {'requests/s':>10}"
        f" {'first token p50, ms':>20} {'p99':>7} {'gap p99':>8} {'API CPU, ms':>12}"
    )
    return {
        "rows": [
            row
            for callers in pair.setting.callers
            for row in _at(pair, callers, rounds, 1 if quick else 2)
        ],
        "goal": GOAL,
    }


def _at(pair: Pair, callers: int, rounds: int, turns: int) -> list[dict[str, Any]]:
    """So many callers, each with `turns` requests a round; a lone caller has six."""
    name = pair.library.name(0)
    count = callers * turns if callers > 1 else 6
    sides = [pair.bare, pair.gated, *pair.variants]
    found: dict[str, dict[str, list[float]]] = {
        served.name: {"rates": [], "p50": [], "p99": [], "gap_p99": [], "cpu": []}
        for served in sides
    }
    for served in sides:
        warm_up = [pair.ask(name, 8) for _ in range(min(count, 2 * callers))]
        pair.run(served, warm_up, at_once=callers)
    for index in range(rounds):
        for served in sides if index % 2 else reversed(sides):
            _round(pair, served, name, count, callers, found[served.name])
    rows = []
    for served in sides:
        own, bare = found[served.name], found[pair.bare.name]["rates"]
        ratios = [ours / theirs for ours, theirs in zip(own["rates"], bare, strict=True)]
        rows.append({"callers": callers, "server": served.name, "ratios": ratios, **own})
        print(
            f"  {callers:7} {served.name:24} {spread(ratios, '.3f'):>22}"
            f" {median(own['rates']):10.1f} {median(own['p50']):20.0f} {median(own['p99']):7.0f}"
            f" {median(own['gap_p99']):8.1f} {median(own['cpu']):12.2f}",
            flush=True,
        )
    return rows


def _round(
    pair: Pair, served: Served, name: str, count: int, callers: int, into: dict[str, list[float]]
) -> None:
    before = cpu(served)
    done = pair.run(served, [pair.ask(name) for _ in range(count)], at_once=callers)
    into["cpu"].append(1000 * (cpu(served) - before) / count)
    into["rates"].append(done.rate)
    into["p50"].append(1000 * median(done.firsts))
    into["p99"].append(1000 * percentile(done.firsts, 0.99))
    into["gap_p99"].append(1000 * percentile(done.gaps, 0.99))


def draw(figures: dict[str, Any], path: Path) -> None:
    """The ratio by callers: every round a dot, the median a line."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    rows = [row for row in figures["rows"] if row["server"] != "bare vLLM"]
    for place, row in enumerate(rows):
        axes.plot([place] * len(row["ratios"]), row["ratios"], "o", color="#1f5f8b", alpha=0.6)
        axes.plot([place - 0.2, place + 0.2], [median(row["ratios"])] * 2, color="#c0692b")
    axes.axhline(figures["goal"], color="#999999", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(rows)), [_label(row) for row in rows])
    axes.set_ylabel("requests a second, to bare vLLM")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def _label(row: dict[str, Any]) -> str:
    variant = row["server"].removeprefix("Lorary").removeprefix(", ")
    return f"{row['callers']} at once" + (f",\n{variant}" if variant else "")
