"""Throughput and memory as the library grows from one adapter to ten thousand.

As many callers as the engine has slots ask for adapters by Zipf's law, and each answer is awaited
before the caller asks again, so that never more adapters are in flight than slots. The limit of
the same slots is bare vLLM under the same sequence of requests, its adapters folded onto as many as
there are slots (the n-th one stands for every adapter whose number is n modulo the slots), all of
them resident: the same batches, and no adapter is ever looked up, fetched, loaded or evicted.
Rounds alternate between the two.

Then forty more adapters, each a different one, are asked for one token. The memory is that of the
replica after that: its API process, its engine's processes, the series on its metrics page, and
the names in its engine.
"""

from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from benchmarks.load import spread
from benchmarks.serving.library import zipf
from benchmarks.serving.pair import SLOTS, Pair, resident
from benchmarks.serving.streams import Ask, run

GOAL = 0.9


def measure(pair: Pair, *, quick: bool) -> dict[str, Any]:
    """Tokens per second on both sides and the replica's memory, by size."""
    sizes = (1, 100, 1000) if quick else (1, 10, 100, 1000, 10_000)
    rounds, requests, tokens = (2, 4, 24) if quick else (2, 8, 48)
    touched = 10 if quick else 40
    rows = []
    print(
        f"\nZipf traffic over a growing library: {SLOTS} callers, {rounds} paired rounds of "
        f"{requests} requests of {tokens} tokens; then one token of {touched} others"
    )
    print(
        f"  {'adapters':>8} {'tokens/s':>22} {'slots limit':>22} {'ratio':>22} {'cold':>5}"
        f" {'API MB':>7} {'engine MB':>9} {'series':>6} {'names':>5} {'disk MB':>7}"
    )
    for size in sizes:
        pair.grow(size)
        row = _throughput(pair, size, rounds, requests, tokens)
        last = range(max(0, size - touched), size)
        run(pair.gated, [Ask(pair.library.name(number), 1) for number in last], at_once=SLOTS)
        row |= _memory(pair)
        rows.append(row)
        print(
            f"  {size:8,} {spread(row['ours'], '.1f'):>22} {spread(row['limit'], '.1f'):>22}"
            f" {spread(row['ratios'], '.2f'):>22} {row['cold']:5.0%} {row['api'] / 1e6:7.0f}"
            f" {row['engine'] / 1e6:9.0f} {row['series']:6} {row['names']:5.0f}"
            f" {row['disk'] / 1e6:7.0f}"
        )
    return {"rows": rows, "goal": GOAL, "slots": SLOTS, "tokens": tokens}


def _throughput(pair: Pair, size: int, rounds: int, requests: int, tokens: int) -> dict[str, Any]:
    ours, limit = list[float](), list[float]()
    resident_ones = [Ask(pair.library.name(number), 1) for number in range(SLOTS)]
    run(pair.bare, resident_ones, at_once=1)
    before = pair.metrics()
    for index in range(rounds):
        numbers = zipf(size, requests, seed=1000 * size + index)
        name = pair.library.name
        asked = [Ask(name(number), tokens) for number in numbers]
        folded = [Ask(name(number % SLOTS), tokens) for number in numbers]
        sides = [(pair.gated, asked, ours), (pair.bare, folded, limit)]
        for served, asks, rates in sides if index % 2 else reversed(sides):
            rates.append(run(served, asks, at_once=SLOTS).tokens_per_second)
    after = pair.metrics()
    warm = 'lorary_tier_requests_total{tier="engine"}'
    hits = after.get(warm, 0.0) - before.get(warm, 0.0)
    return {
        "size": size,
        "ours": ours,
        "limit": limit,
        "ratios": [a / b for a, b in zip(ours, limit, strict=True)],
        "ratio": median(a / b for a, b in zip(ours, limit, strict=True)),
        "cold": 1 - hits / (rounds * requests),
    }


def _memory(pair: Pair) -> dict[str, Any]:
    api, engine = resident(pair.gated)
    metrics = pair.metrics()
    return {
        "api": api,
        "engine": engine,
        "series": len(metrics),
        "names": metrics["lorary_engine_names"],
        "disk": metrics["lorary_cache_bytes"],
    }


def draw(figures: dict[str, Any], path: Path) -> None:
    """Throughput beside its limit, and memory, over the library's size."""
    rows = figures["rows"]
    sizes = [row["size"] for row in rows]
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    speed, memory = figure.subplots(1, 2)
    for key, label, colour in (
        ("limit", f"bare vLLM, {SLOTS} resident adapters", "#1f5f8b"),
        ("ours", "Lorary", "#c0692b"),
    ):
        middles = [median(row[key]) for row in rows]
        low = [m - min(row[key]) for m, row in zip(middles, rows, strict=True)]
        high = [max(row[key]) - m for m, row in zip(middles, rows, strict=True)]
        speed.errorbar(
            sizes, middles, yerr=[low, high], marker="o", label=label, color=colour, capsize=3
        )
    speed.set_ylabel("tokens per second (median, least to most)")
    for key, label, colour in (("engine", "engine", "#1f5f8b"), ("api", "API process", "#c0692b")):
        memory.plot(sizes, [row[key] / 1e9 for row in rows], marker="o", label=label, color=colour)
    memory.set_ylabel("resident memory of Lorary, GB")
    for axes in (speed, memory):
        axes.set_xscale("log")
        axes.set_xlabel("published adapters")
        axes.set_ylim(0, axes.get_ylim()[1] * 1.2)
        axes.legend(loc="lower left", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
