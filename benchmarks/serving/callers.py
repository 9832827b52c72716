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
    rounds = 2 if quick else max(3, pair.setting.rounds)
    print(f"\nOne adapter, answers of {pair.setting.tokens} tokens, {rounds} paired rounds")
    print(
        f"  {'callers':>7} {'requests/s, ratio':>22} {'requests/s':>16} {'first token p50, ms':>20}"
        f" {'p99':>16} {'API CPU, ms':>14}   (Lorary / bare vLLM)"
    )
    rows = []
    for callers in pair.setting.callers:
        row = _at(pair, callers, rounds, 1 if quick else 2)
        rows.append(row)
        ours, bare = row["Lorary"], row["bare vLLM"]
        print(
            f"  {callers:7} {spread(row['ratios'], '.3f'):>22}"
            + "".join(
                f" {both:>{width}}"
                for width, both in (
                    (16, f"{median(ours['rates']):.1f} / {median(bare['rates']):.1f}"),
                    (20, f"{median(ours['p50']):.0f} / {median(bare['p50']):.0f}"),
                    (16, f"{median(ours['p99']):.0f} / {median(bare['p99']):.0f}"),
                    (14, f"{median(ours['cpu']):.2f} / {median(bare['cpu']):.2f}"),
                )
            ),
            flush=True,
        )
    return {"rows": rows, "goal": GOAL}


def _at(pair: Pair, callers: int, rounds: int, turns: int) -> dict[str, Any]:
    """So many callers, each with `turns` requests a round; a lone caller has six."""
    name = pair.library.name(0)
    count = callers * turns if callers > 1 else 6
    sides = [pair.gated, pair.bare]
    found: dict[str, Any] = {
        served.name: {"rates": [], "p50": [], "p99": [], "cpu": [], "gap_p99": []}
        for served in sides
    }
    for served in sides:
        pair.run(served, [pair.ask(name, 8) for _ in range(min(count, 2 * callers))],
                 at_once=callers)  # fmt: skip
    for index in range(rounds):
        for served in sides if index % 2 else reversed(sides):
            _round(pair, served, name, count, callers, found[served.name])
    ratios = zip(found["Lorary"]["rates"], found["bare vLLM"]["rates"], strict=True)
    return {"callers": callers, "ratios": [ours / bare for ours, bare in ratios], **found}


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
    rows = figures["rows"]
    for place, row in enumerate(rows):
        axes.plot([place] * len(row["ratios"]), row["ratios"], "o", color="#1f5f8b", alpha=0.6)
        axes.plot([place - 0.2, place + 0.2], [median(row["ratios"])] * 2, color="#c0692b")
    axes.axhline(figures["goal"], color="#999999", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(rows)), [str(row["callers"]) for row in rows])
    axes.set_xlabel("callers at once")
    axes.set_ylabel("requests a second, Lorary / bare vLLM")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
