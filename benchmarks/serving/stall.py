"""What running streams feel while other adapters are loaded: the time between their tokens.

A few streams run, each on an adapter of its own. In the quiet phase nothing else happens; in the
others, adapters that are new to the server are loaded all the while, one every second, or four at
the same moment every four seconds. Lorary is told by hints, and brings them from S3, verified, and
one by one into the engine. Bare vLLM is told by its own route, and has their files on its disk
already. Figures are ratios of the same server's quiet phase.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from matplotlib.figure import Figure

from benchmarks.load import percentile, spread
from benchmarks.serving.pair import Pair

PHASES = {"quiet": 0, "one a second": 1, "four every 4 s": 4}
"""How many adapters are loaded at one moment; as many seconds pass until the next."""
SHOWN_FROM_MS = 2
"""Tokens that were ready together come in one piece; such gaps are not shown."""

Loader = Callable[[int], None]


def measure(pair: Pair, *, quick: bool) -> dict[str, Any]:
    """The gaps between tokens, in seconds, by server and phase."""
    rounds = 1 if quick or not pair.setting.is_small else pair.setting.rounds
    streams = min(16, pair.setting.slots - 1)
    tokens = 48 if pair.setting.is_small else 600
    fresh = iter(range(100, 100 + 40 * rounds * len(PHASES)))  # nobody else asks for these
    pair.grow(100 + 40 * rounds * len(PHASES))
    gaps: dict[tuple[str, str], list[list[float]]] = {}
    sides: tuple[tuple[Any, Loader], ...] = (
        (pair.gated, lambda number: _hint(pair, number)),
        (pair.bare, lambda number: _load(pair, number)),
    )
    asks = [pair.ask(pair.library.name(number), tokens) for number in range(streams)]
    for served, _ in sides:
        pair.run(served, [pair.ask(ask.model, 2) for ask in asks], at_once=streams)
    for _ in range(rounds):
        for phase, at_once in PHASES.items():
            for served, loader in sides:
                with _loading(loader, fresh, at_once):
                    found = pair.run(served, asks, at_once=streams).gaps
                gaps.setdefault((served.name, phase), []).append(found)
    return {"rows": _print(gaps, streams, rounds)}


def _print(
    gaps: dict[tuple[str, str], list[list[float]]], streams: int, rounds: int
) -> list[dict[str, Any]]:
    print(f"\nTime between tokens of {streams} streams while others load, {rounds} rounds; ms")
    print(f"  {'':28} {'p50':>6} {'p90':>6} {'p99':>6} {'most':>6}   {'p99 to quiet, by round'}")
    rows = []
    for (server, phase), by_round in gaps.items():
        ratios = [
            percentile(found, 0.99) / percentile(quiet, 0.99)
            for found, quiet in zip(by_round, gaps[server, "quiet"], strict=True)
        ]
        found = [gap for found in by_round for gap in found]
        rows.append({"server": server, "phase": phase, "gaps": found, "p99_ratios": ratios})
        p50, p90, p99 = (1000 * percentile(found, share) for share in (0.5, 0.9, 0.99))
        print(
            f"  {server + ', ' + phase:28} {p50:6.1f} {p90:6.1f} {p99:6.1f}"
            f" {1000 * max(found):6.0f}   {spread(ratios, '.2f')}"
        )
    return rows


def _hint(pair: Pair, number: int) -> None:
    body = {"models": [pair.library.name(number)]}
    url = f"{pair.gated.url}/v1/adapters/prefetch"
    httpx.post(url, json=body, headers=pair.gated.headers, timeout=60).raise_for_status()


def _load(pair: Pair, number: int) -> None:
    pair.load_bare(pair.library.name(number), pair.library.local(number))


@contextlib.contextmanager
def _loading(loader: Loader, fresh: Iterator[int], at_once: int) -> Iterator[None]:
    """Meanwhile, new adapters are loaded: one a second on average. Raises what a load raised."""
    stop = threading.Event()

    def keep_loading() -> None:
        while at_once and not stop.wait(at_once):
            numbers = [next(fresh) for _ in range(at_once)]
            list(pool.map(loader, numbers))

    with ThreadPoolExecutor(5) as pool:
        running = pool.submit(keep_loading)
        try:
            yield
        finally:
            stop.set()
        running.result()


def draw(figures: dict[str, Any], path: Path) -> None:
    """How the gaps are distributed, each phase a line, each server a panel."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    servers = list(dict.fromkeys(row["server"] for row in figures["rows"]))
    panels = figure.subplots(1, len(servers), sharex=True, sharey=True)
    for axes, server in zip(panels, servers, strict=True):
        for row, colour in zip(
            (row for row in figures["rows"] if row["server"] == server),
            ("#1f5f8b", "#c0692b", "#7a3b69"),
            strict=True,
        ):
            gaps = sorted(row["gaps"])
            share = [1 - index / len(gaps) for index in range(len(gaps))]
            label = f"{row['phase']}: p99 {median(row['p99_ratios']):.1f} x quiet"
            axes.step([1000 * gap for gap in gaps], share, label=label, color=colour)
        axes.axhline(0.01, color="#999999", linewidth=0.8, linestyle=":")
        axes.set_title(f"{server} (median {1000 * median(gaps):.0f} ms)", fontsize=10)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set_xlim(left=SHOWN_FROM_MS)
        axes.set_yscale("log")
        axes.set_xlabel("milliseconds between two tokens")
        axes.legend(loc="lower left", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share of gaps that are longer")
    figure.savefig(path, dpi=130)
