"""The working-set cliff: uniform traffic over more and more adapters, past the engine's slots.

The same number of callers ask for adapters at random, each equally often; every adapter has been
loaded once before. Past --max-loras not every request can be in the batch; past --max-cpu-loras the
engine reads adapters from disk again, between two steps. Bare vLLM knows all names and lets its
scheduler decide alone; on Lorary, adapters take turns (`serving/tiers/scheduler.py`).

Then what an unlucky adapter feels: every slot is taken by a hot adapter whose callers never pause,
and one more adapter asks, again and again. Its time to the first token, and what the hot ones make.
"""

import asyncio
import random
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
from matplotlib.figure import Figure

from benchmarks.load import percentile, spread
from benchmarks.servers import Served
from benchmarks.serving.pair import Pair
from benchmarks.serving.streams import client, stream

HOT_TOKENS = 24


def measure(pair: Pair, *, quick: bool) -> dict[str, Any]:
    """Both servers at each number of adapters, then the unlucky adapter on both."""
    slots = pair.setting.slots
    counts = (slots // 2, 4 * slots) if quick else tuple(slots * n // 2 for n in (1, 2, 4, 8, 16))
    rounds = 1 if quick else pair.setting.rounds
    pair.grow(max(counts))
    for number in range(max(counts)):
        pair.load_bare(pair.library.name(number), pair.library.local(number))
        pair.run(pair.gated, [pair.ask(pair.library.name(number), 1)], at_once=1)
    print(
        f"\nUniform traffic, {_callers(pair)} callers, {slots} slots, {pair.setting.places} "
        f"adapters in host memory, {rounds} paired rounds"
    )
    print(f"  {'adapters':>8} {'':10} {'tokens/s':>22} {'first token p50, s':>22} {'p99':>6}")
    rows = []
    for count in counts:
        for row in _at(pair, count, rounds):
            rows.append(row)
            print(
                f"  {count:8} {row['server']:10} {spread(row['rates'], '.1f'):>22}"
                f" {spread(row['p50s'], '.2f'):>22} {row['p99']:6.1f}"
            )
    seconds = 30.0 if quick else 45.0
    print(f"\nOne adapter more than slots, the others never pause, {seconds:.0f} s")
    unlucky = []
    for served in (pair.bare, pair.gated):
        found = asyncio.run(_starve(pair, served, seconds))
        unlucky.append(found)
        print(
            f"  {served.name:10} asked {len(found['waits'])} times, first token p50 "
            f"{median(found['waits']):.1f} s, longest {max(found['waits']):.1f} s"
            f"{'' if found['answered'] else ' and then still not answered'}; "
            f"the hot ones {found['hot']:.1f} tokens/s"
        )
    return {"rows": rows, "unlucky": unlucky, "slots": slots, "host": pair.setting.places}


def _callers(pair: Pair) -> int:
    return 4 * pair.setting.slots


def _at(pair: Pair, count: int, rounds: int) -> list[dict[str, Any]]:
    rates: dict[str, list[float]] = {pair.bare.name: [], pair.gated.name: []}
    firsts: dict[str, list[list[float]]] = {pair.bare.name: [], pair.gated.name: []}
    for index in range(rounds):
        chosen = random.Random(100 * count + index)
        asks = [
            pair.ask(pair.library.name(chosen.randrange(count)), 16)
            for _ in range(6 * pair.setting.slots)
        ]
        sides = [pair.bare, pair.gated]
        for served in sides if index % 2 else reversed(sides):
            done = pair.run(served, asks, at_once=_callers(pair))
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
    """Hot adapters in every slot, two callers each out of step; then one more asks as well."""
    await asyncio.sleep(pair.setting.settle)
    name = pair.library.name
    clock = asyncio.get_running_loop().time
    end = clock() + seconds
    tokens = 0
    waits = list[float]()
    answered = True

    async def hot(connection: aiohttp.ClientSession, number: int, first: int) -> None:
        nonlocal tokens
        length = first
        while clock() < end:
            tokens += len((await stream(connection, served, pair.ask(name(number), length))).came)
            length = HOT_TOKENS

    async def unlucky(connection: aiohttp.ClientSession) -> None:
        nonlocal answered
        await asyncio.sleep(2)
        while (asked := clock()) < end:
            try:
                extra = pair.ask(name(pair.setting.slots), 4)
                async with asyncio.timeout_at(end):
                    waits.append((await stream(connection, served, extra)).first)
            except TimeoutError:
                waits.append(clock() - asked)
                answered = False

    async with client() as connection, asyncio.TaskGroup() as callers:
        callers.create_task(unlucky(connection))
        for number in range(pair.setting.slots):
            for first in (HOT_TOKENS, HOT_TOKENS // 2):
                callers.create_task(hot(connection, number, first))
    return {
        "server": served.name,
        "waits": waits,
        "answered": answered,
        "hot": tokens / (clock() - end + seconds),
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
            label = f"{server}, p50" if axes is first else server
            axes.errorbar(
                counts, middles, yerr=[low, high], marker="o", label=label, color=colour, capsize=3
            )
        first.plot(
            counts, [row["p99"] for row in rows], marker=".", linestyle=":", color=colour,
            label=f"{server}, p99",
        )  # fmt: skip
    speed.set_ylabel("tokens per second")
    first.set_ylabel("seconds to the first token")
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
