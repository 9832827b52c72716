"""The working-set cliff: uniform traffic over more and more adapters, past the engine's slots.

The same number of callers ask for adapters at random, each equally often; every adapter has been
loaded once before. Past --max-loras not every request can be in the batch; past --max-cpu-loras the
engine reads adapters from disk again, between two steps. Bare vLLM knows all names and lets its
scheduler decide alone; on Lorary, adapters take turns (`serving/turns.py`).

Then what an unlucky adapter feels: every slot is taken by a hot adapter whose callers never pause,
and one more adapter asks, again and again. Its time to the first token, and what the hot ones make.
"""

import asyncio
import random
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from benchmarks.load import percentile, spread
from benchmarks.servers import Served
from benchmarks.serving.pair import HOST, SLOTS, Pair
from benchmarks.serving.streams import Ask, client, load, run, stream

AT_ONCE = 16
PATIENCE = 60.0
"""Seconds after which the unlucky adapter's question counts as not answered."""


def measure(pair: Pair, *, quick: bool) -> dict[str, Any]:
    """Both servers at each number of adapters, then the unlucky adapter on both."""
    counts = (2, 6, 16) if quick else (2, 4, 6, 8, 12, 16, 32)
    rounds, requests, tokens = (1, 24, 16) if quick else (3, 32, 16)
    pair.grow(max(counts))
    for number in range(max(counts)):
        pair.load_bare(pair.library.name(number), pair.library.local(number))
        run(pair.gated, [Ask(pair.library.name(number), 1)], at_once=1)
    print(
        f"\nUniform traffic, {AT_ONCE} callers, {SLOTS} slots, {HOST} adapters in host memory, "
        f"{rounds} paired rounds of {requests} requests of {tokens} tokens"
    )
    print(f"  {'adapters':>8} {'':10} {'tokens/s':>22} {'first token p50, s':>22} {'p99':>6}")
    rows = []
    for count in counts:
        for row in _at(pair, count, rounds, requests, tokens):
            rows.append(row)
            print(
                f"  {count:8} {row['server']:10} {spread(row['rates'], '.1f'):>22}"
                f" {spread(row['p50s'], '.2f'):>22} {row['p99']:6.1f}"
            )
    seconds = 20.0 if quick else 60.0
    print(f"\nOne adapter more than slots, the others never pause, {seconds:.0f} s")
    unlucky = []
    for served in (pair.bare, pair.gated):
        found = asyncio.run(_starve(pair, served, seconds))
        unlucky.append(found)
        print(
            f"  {served.name:10} its answers {len(found['firsts']):3}, longest wait "
            f"{found['longest']:5.1f} s{'' if found['answered'] else ' and never answered'}; "
            f"the hot ones {found['hot']:.1f} tokens/s"
        )
    return {"rows": rows, "unlucky": unlucky, "slots": SLOTS, "host": HOST}


def _at(pair: Pair, count: int, rounds: int, requests: int, tokens: int) -> list[dict[str, Any]]:
    rates: dict[str, list[float]] = {pair.bare.name: [], pair.gated.name: []}
    firsts: dict[str, list[list[float]]] = {pair.bare.name: [], pair.gated.name: []}
    for index in range(rounds):
        chosen = random.Random(100 * count + index)
        asks = [Ask(pair.library.name(chosen.randrange(count)), tokens) for _ in range(requests)]
        sides = [pair.bare, pair.gated]
        for served in sides if index % 2 else reversed(sides):
            done = run(served, asks, at_once=AT_ONCE)
            rates[served.name].append(done.tokens_per_second)
            firsts[served.name].append(done.firsts)
    return [
        {
            "adapters": count,
            "server": name,
            "rates": rates[name],
            "p50s": [median(found) for found in firsts[name]],
            "p99": percentile([first for found in firsts[name] for first in found], 0.99),
        }
        for name in rates
    ]


async def _starve(pair: Pair, served: Served, seconds: float) -> dict[str, Any]:
    """Hot adapters in every slot, two callers each, for `seconds`; then one more asks as well."""
    name = pair.library.name
    hot = (Ask(name(n % SLOTS), 24) for n in iter(int, 1) for n in range(SLOTS))
    firsts: list[float] = []
    longest = 0.0
    answered = True
    began = asyncio.get_running_loop().time()

    def left() -> float:
        return began + seconds - asyncio.get_running_loop().time()

    async def unlucky() -> None:
        nonlocal longest, answered
        async with client(served) as connection:
            await asyncio.sleep(2)
            while left() > 0:
                asked = asyncio.get_running_loop().time()
                try:
                    async with asyncio.timeout(left()):
                        firsts.append((await stream(connection, Ask(name(SLOTS), 4))).first)
                except TimeoutError:
                    answered = False
                longest = max(longest, asyncio.get_running_loop().time() - asked)

    def until_the_end() -> Any:
        for ask in hot:
            if left() <= 0:
                return
            yield ask

    asking = asyncio.create_task(unlucky())
    done = await load(served, until_the_end(), at_once=2 * SLOTS)
    await asking
    return {
        "server": served.name,
        "firsts": firsts,
        "longest": longest,
        "answered": answered,
        "hot": done.tokens_per_second,
    }


def draw(figures: dict[str, Any], path: Path) -> None:
    """Throughput and time to the first token over the number of adapters, both servers."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    speed, first = figure.subplots(1, 2)
    for server, colour in (("bare vLLM", "#1f5f8b"), ("Lorary", "#c0692b")):
        rows = [row for row in figures["rows"] if row["server"] == server]
        counts = [row["adapters"] for row in rows]
        for axes, key in ((speed, "rates"), (first, "p50s")):
            middles = [median(row[key]) for row in rows]
            low = [m - min(row[key]) for m, row in zip(middles, rows, strict=True)]
            high = [max(row[key]) - m for m, row in zip(middles, rows, strict=True)]
            axes.errorbar(
                counts, middles, yerr=[low, high], marker="o", label=f"{server}", color=colour,
                capsize=3,
            )  # fmt: skip
        first.plot(
            counts, [row["p99"] for row in rows], marker=".", linestyle=":", color=colour,
            label=f"{server}, p99",
        )  # fmt: skip
    speed.set_ylabel("tokens per second")
    first.set_ylabel("seconds to the first token, p50")
    for axes in (speed, first):
        for place, label in ((figures["slots"], "slots"), (figures["host"], "host memory")):
            axes.axvline(place, color="#999999", linewidth=0.8, linestyle=":")
            axes.text(place, 0.01, f" {label}", transform=axes.get_xaxis_transform(), fontsize=8)
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set_xlabel("adapters asked for, each equally often")
        axes.set_ylim(0, axes.get_ylim()[1] * 1.15)
        axes.legend(loc="upper left", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
