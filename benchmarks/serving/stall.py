"""What running streams feel while other adapters are loaded: the time between their tokens.

A few streams run, each on an adapter of its own. In the quiet phase nothing else happens; in the
others, adapters that are new to the server are loaded all the while, one every second, or four at
the same moment every four seconds. Lorary is told by hints, and brings them from S3, verified, and
one by one into the engine. Bare vLLM is told by its own route, and has their files on its disk
already. Figures are ratios of the same server's quiet phase.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from benchmarks.load import percentile, spread
from benchmarks.serving.pair import SLOTS, Pair
from benchmarks.serving.streams import SETTLE, Ask, client, stream

STREAMS = SLOTS - 1
PHASES = {"quiet": 0, "one a second": 1, "four every 4 s": 4}
"""How many adapters are loaded at one moment; as many seconds pass until the next."""
FRESH = range(100, 500)
"""Adapters that nobody else asks for."""
SHOWN_FROM_MS = 30
"""Tokens that were ready together come in one piece; such gaps are not shown."""

Loader = Callable[[Sequence[int]], Awaitable[None]]


def measure(pair: Pair, *, quick: bool) -> dict[str, Any]:
    """The gaps between tokens, in seconds, by server and phase."""
    rounds, tokens = (1, 48) if quick else (4, 64)
    pair.grow(FRESH.stop)
    for number in FRESH:
        pair.library.local(number)
    gaps = asyncio.run(_measure(pair, rounds, tokens))
    print(f"\nTime between tokens of {STREAMS} streams while others load, {rounds} rounds; ms")
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
            f"  {server + ', ' + phase:28} {p50:6.0f} {p90:6.0f} {p99:6.0f}"
            f" {1000 * max(found):6.0f}   {spread(ratios, '.2f')}"
        )
    return {"rows": rows}


async def _measure(
    pair: Pair, rounds: int, tokens: int
) -> dict[tuple[str, str], list[list[float]]]:
    name, fresh = pair.library.name, iter(FRESH)
    gaps: dict[tuple[str, str], list[list[float]]] = {}
    async with client(pair.gated) as gated, client(pair.bare) as bare:

        async def hint(numbers: Sequence[int]) -> None:
            body = {"models": [name(number) for number in numbers]}
            (await gated.post("/v1/adapters/prefetch", json=body)).raise_for_status()

        async def load(numbers: Sequence[int]) -> None:
            bodies = [
                {"lora_name": name(number), "lora_path": str(pair.library.local(number))}
                for number in numbers
            ]
            posts = (bare.post("/v1/load_lora_adapter", json=body) for body in bodies)
            for reply in await asyncio.gather(*posts):
                reply.raise_for_status()

        asks = [Ask(name(number), tokens) for number in range(STREAMS)]
        for _ in range(rounds):
            for phase, at_once in PHASES.items():
                for server, connection, loader in (
                    (pair.gated.name, gated, hint),
                    (pair.bare.name, bare, load),
                ):
                    loading = asyncio.create_task(_keep_loading(loader, fresh, at_once))
                    answers = await asyncio.gather(*(stream(connection, ask) for ask in asks))
                    loading.cancel()
                    ended = (await asyncio.gather(loading, return_exceptions=True))[0]
                    if not isinstance(ended, asyncio.CancelledError):
                        raise SystemExit(f"a load failed: {ended!r}")
                    found = [gap for answer in answers for gap in answer.gaps]
                    gaps.setdefault((server, phase), []).append(found)
                    await asyncio.sleep(SETTLE)  # what was hinted at last finishes, too
    return gaps


async def _keep_loading(loader: Loader, fresh: Iterator[int], at_once: int) -> None:
    """Until cancelled: new adapters, one a second on average."""
    while at_once:
        await asyncio.sleep(at_once)
        await loader([next(fresh) for _ in range(at_once)])
    await asyncio.Event().wait()


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
