"""Throughput and memory as the library grows from one adapter to thousands.

Callers ask for adapters by Zipf's law, and each answer is awaited before the caller asks again.
Three sides, in turn: Lorary; bare vLLM under the same requests, which finds the adapters on its
local disk; and the limit of the slots: bare vLLM under the same requests with the adapters folded
onto as many as there are slots (the n-th one stands for every adapter whose number is n modulo the
slots), all of them resident, so that none is ever looked up, fetched, loaded or evicted. In the
first round of a size most adapters are new to every side.

Then forty more adapters, each a different one, are asked for one token. The memory is that of the
replica after that: its API process, its engine's processes, the series on its metrics page, and
the names in its engine.
"""

from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from benchmarks.load import percentile, spread
from benchmarks.serving.library import zipf
from benchmarks.serving.pair import Pair, resident

GOAL = 0.8
TOUCHED = 40


def measure(pair: Pair, *, quick: bool) -> dict[str, Any]:
    """Tokens per second on all sides and the replica's memory, by size."""
    setting = pair.setting
    sizes = setting.sizes[:3] if quick else setting.sizes
    requests = (2 if setting.is_small else 6) * setting.at_once
    print(
        f"\nZipf traffic over a growing library: {setting.at_once} callers, {setting.slots} slots,"
        f" {setting.rounds} rounds of {requests} requests of {setting.tokens} tokens; then one "
        f"token of {TOUCHED} others"
    )
    print(
        f"  {'adapters':>8} {'tokens/s':>24} {'to bare vLLM':>20} {'to the slots limit':>20}"
        f" {'cold':>5} {'first p99, s':>12} {'API MB':>7} {'engine MB':>9} {'series':>6}"
        f" {'names':>5} {'disk MB':>7}"
    )
    rows = []
    for size in sizes:
        pair.grow(size, _kind(pair))
        row = _throughput(pair, size, requests)
        last = range(max(0, size - TOUCHED), size)
        touched = [pair.ask(pair.library.name(number, _kind(pair)), 1) for number in last]
        pair.run(pair.gated, touched, at_once=setting.slots)
        row |= _memory(pair)
        rows.append(row)
        print(
            f"  {size:8,} {spread(row['ours'], '.1f'):>24} {spread(row['to_bare'], '.2f'):>20}"
            f" {spread(row['to_limit'], '.2f'):>20} {row['cold']:5.0%} {row['first_p99']:12.2f}"
            f" {row['api'] / 1e6:7.0f} {row['engine'] / 1e6:9.0f} {row['series']:6}"
            f" {row['names']:5.0f} {row['disk'] / 1e6:7.0f}",
            flush=True,
        )
    return {"rows": rows, "goal": GOAL, "slots": setting.slots}


def _kind(pair: Pair) -> Any:
    """Large ones of the small model; of a large one the small, so that a library fits the disk."""
    return "large" if pair.setting.is_small else "small"


def _throughput(pair: Pair, size: int, requests: int) -> dict[str, Any]:
    setting, kind = pair.setting, _kind(pair)
    rates: dict[str, list[float]] = {"ours": [], "bare": [], "limit": []}
    firsts: list[float] = []
    for number in range(size):
        pair.library.local(number, kind)
    resident_ones = [pair.ask(pair.library.name(n, kind), 1) for n in range(setting.slots)]
    pair.grow(setting.slots, kind)
    pair.run(pair.bare, resident_ones, at_once=setting.slots)
    before = pair.metrics()
    for index in range(setting.rounds):
        numbers = zipf(size, requests, seed=1000 * size + index)
        asked = [pair.ask(pair.library.name(number, kind)) for number in numbers]
        folded = [pair.ask(pair.library.name(n % setting.slots, kind)) for n in numbers]
        # The limit first: the other load of bare vLLM evicts what it needs.
        sides = [("limit", pair.bare, folded), ("ours", pair.gated, asked),
                 ("bare", pair.bare, asked)]  # fmt: skip
        pair.run(pair.bare, resident_ones, at_once=setting.slots)
        for side, served, asks in sides:
            done = pair.run(served, asks, at_once=setting.at_once)
            rates[side].append(done.tokens_per_second)
            if side == "ours":
                firsts += done.firsts
    after = pair.metrics()
    warm = 'lorary_tier_requests_total{tier="engine"}'
    hits = after.get(warm, 0.0) - before.get(warm, 0.0)
    return {
        "size": size,
        **rates,
        "to_bare": [a / b for a, b in zip(rates["ours"], rates["bare"], strict=True)],
        "to_limit": [a / b for a, b in zip(rates["ours"], rates["limit"], strict=True)],
        "cold": 1 - hits / (setting.rounds * requests),
        "first_p99": percentile(firsts, 0.99),
        "turns": {k: after[k] - before.get(k, 0.0) for k in after if k.startswith(KEPT)},
    }


KEPT = ("lorary_slot_wait_seconds", "lorary_cold_load", "lorary_evictions", "lorary_batching")
"""Metrics whose change says where time went; only in the JSON file."""


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
        ("limit", f"bare vLLM, {figures['slots']} resident adapters", "#1f5f8b"),
        ("bare", "bare vLLM, the same adapters", "#7a3b69"),
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
