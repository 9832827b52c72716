"""An adapter's cold start: from a name that the replica never saw to its first token.

Beside the sum of its limits, measured in the same run and in turn: the bare download of the same
bytes from the same store, and bare vLLM's load of the same files from a local disk with the first
token after it. Every adapter has weights of its own, so that nothing is cached anywhere but in the
store's memory, where one read before has put it for both sides.
"""

import time
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from benchmarks.load import spread
from benchmarks.serving.library import KINDS, Fresh
from benchmarks.serving.pair import Pair
from registry.store.blobs import blob_key

GOAL = 1.2
PHASES = {
    "disk": 'lorary_cold_load_phase_seconds_sum{phase="download"}',
    "engine": 'lorary_cold_load_phase_seconds_sum{phase="engine"}',
    "trial": 'lorary_cold_load_phase_seconds_sum{phase="trial"}',
}
"""Where the replica's own metrics put a cold start's seconds."""
SHOWN = (
    ("Lorary, from the store to the first token", "cold"),
    ("  of it download and verification", "disk"),
    ("  of it the engine's load", "engine"),
    ("  of it the trial of a new version", "trial"),
    ("the next request's first token", "warm"),
    ("limit: bare download", "download"),
    ("limit: bare vLLM, load and first token", "load"),
)


def measure(pair: Pair, *, quick: bool) -> dict[str, Any]:
    """Each adapter's seconds, and those of its limits, for both kinds of adapter."""
    return {kind: _kind(pair, kind, 6 if quick else 10) for kind in KINDS}


def _kind(pair: Pair, kind: Any, count: int) -> dict[str, Any]:
    adapters = [pair.library.fresh(kind) for _ in range(count)]
    pair.await_commit(pair.library.registry.catalog.sequence)
    rows = [_both(pair, adapter, index) for index, adapter in enumerate(adapters)]
    ratios = [row["cold"] / (row["download"] + row["load"]) for row in rows]
    print(
        f"\nCold start to the first token, {count} adapters of {adapters[0].megabytes:.1f} MB;"
        " ms, median [min .. max]"
    )
    for title, key in SHOWN:
        print(f"  {title:42} {spread([1000 * row[key] for row in rows], '.0f')}")
    print(f"  {'cold start / sum of its limits':42} {spread(ratios, '.2f')}   (goal {GOAL})")
    return {
        "rows": rows,
        "megabytes": adapters[0].megabytes,
        "ratio": median(ratios),
        "ratios": ratios,
        "goal": GOAL,
    }


def _both(pair: Pair, adapter: Fresh, index: int) -> dict[str, float]:
    """One adapter on both sides; which is first alternates."""
    row: dict[str, float] = {}
    _download(pair, adapter)  # so that the store has it in memory for both
    for side in ("ours", "limits") if index % 2 else ("limits", "ours"):
        if side == "ours":
            row |= _cold(pair, adapter)
        else:
            row["download"] = _download(pair, adapter)
            row["load"] = _load(pair, adapter)
    return row


def _cold(pair: Pair, adapter: Fresh) -> dict[str, float]:
    before = pair.metrics()
    cold, warm = (
        pair.run(pair.gated, [pair.ask(adapter.name, 2)], at_once=1).firsts[0] for _ in range(2)
    )
    after = pair.metrics()
    phases = {phase: after.get(name, 0.0) - before.get(name, 0.0) for phase, name in PHASES.items()}
    return {"cold": cold, "warm": warm, **phases}


def _load(pair: Pair, adapter: Fresh) -> float:
    """Seconds of bare vLLM's load of the local directory, and to its first token."""
    began = time.perf_counter()
    pair.load_bare(adapter.name, adapter.directory)
    took = time.perf_counter() - began
    return took + pair.run(pair.bare, [pair.ask(adapter.name, 2)], at_once=1).firsts[0]


def _download(pair: Pair, adapter: Fresh) -> float:
    """Seconds of reading the files, one after the other; nothing is done with the bytes."""
    began = time.perf_counter()
    for file in adapter.files:
        pair.library.store.get(blob_key(file.sha256))
    return time.perf_counter() - began


def draw(figures: dict[str, Any], path: Path) -> None:
    """Each adapter's cold start beside its limits, one upon the other."""
    figures = figures["large"]
    rows = figures["rows"]
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots()
    below = [0.0] * len(rows)
    for key, label, colour in (
        ("download", "limit: bare download", "#9db8cc"),
        ("load", "limit: bare vLLM, load of a local file and first token", "#1f5f8b"),
    ):
        heights = [1000 * row[key] for row in rows]
        places = [x - 0.2 for x in range(len(rows))]
        axes.bar(places, heights, 0.4, bottom=below, label=label, color=colour)
        below = heights
    axes.bar(
        [x + 0.2 for x in range(len(rows))],
        [1000 * row["cold"] for row in rows],
        0.4,
        label="Lorary, from the store to the first token",
        color="#c0692b",
    )
    axes.set_xticks([])
    axes.set_xlabel(f"each adapter (median ratio {figures['ratio']:.2f}, goal {figures['goal']})")
    axes.set_ylabel("milliseconds")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.35)
    axes.legend(loc="upper left", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
