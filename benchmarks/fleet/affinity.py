"""Affinity against round robin: real vLLM replicas behind the chart's Envoy, both ways in turn.

    python -m benchmarks.fleet.affinity --rounds 4          # or: make bench-fleet

More adapters than one replica's memory holds are asked for by a Zipf law. With affinity each
replica is asked for its share of them; round robin asks every replica for all. Both fronts stand
before the same replicas; each turn begins with requests that are not counted, until residency is
its own.
"""

import argparse
import asyncio
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

from benchmarks.fleet.site import MEMORY, Fleet, fleet, names, open_front
from benchmarks.fleet.traffic import load
from benchmarks.load import percentile, spread

SIDES = {"affinity": {"adapterAffinity": True}, "round robin": {"adapterAffinity": False}}


@dataclass(frozen=True, slots=True)
class Turn:
    """One side's turn: the share of requests whose adapter the engine held, loads, latencies."""

    resident: float
    cold: float
    first_p50: float
    first_p99: float
    per_second: float
    requests: int


def main() -> None:
    """Measure, print, and keep what the simulation needs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--adapters", type=int, default=24)
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--warm", type=float, default=8)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--plot", type=Path, help="write a picture")
    options = parser.parse_args()
    turns: dict[str, list[Turn]] = {name: [] for name in SIDES}
    with (
        tempfile.TemporaryDirectory() as folder,
        fleet(Path(folder), replicas=options.replicas, adapters=options.adapters) as made,
    ):
        for name, values in SIDES.items():
            open_front(made, name.replace(" ", "-"), **values)
            made.settle(options.replicas, name.replace(" ", "-"))
        for number in range(options.rounds):
            order = list(SIDES) if number % 2 == 0 else list(SIDES)[::-1]
            for name in order:
                turns[name].append(_turn(made, name.replace(" ", "-"), options, number))
                print(f"  {name:12} {turns[name][-1]}", flush=True)
    report(turns, options)


def _turn(made: Fleet, name: str, options: argparse.Namespace, number: int) -> Turn:
    url, models = made.fronts[name].url, names(options.adapters)

    def run(seconds: float, seed: int) -> tuple[list[float], int]:
        answers = asyncio.run(
            load(url, models, made.headers, seconds=seconds, callers=options.callers, seed=seed)
        )
        bad = [answer for answer in answers if answer.status != 200 or answer.wrong]
        if bad:
            raise SystemExit(f"{len(bad)} requests failed: {bad[0]}")
        return [answer.first for answer in answers], len(answers)

    run(options.warm, 1000 + number)
    before = made.tiers()
    firsts, requests = run(options.seconds, number)
    after = made.tiers()
    counted = {tier: after[tier] - before.get(tier, 0) for tier in after}
    total = sum(counted.values())
    return Turn(
        resident=counted.get("engine", 0) / total,
        cold=(total - counted.get("engine", 0)) / total,
        first_p50=median(firsts),
        first_p99=percentile(firsts, 0.99),
        per_second=requests / options.seconds,
        requests=requests,
    )


def report(turns: dict[str, list[Turn]], options: argparse.Namespace) -> None:
    """Print both sides, and the ratio of each pair of turns."""
    print(
        f"\n{options.replicas} replicas, {options.adapters} adapters, {MEMORY} in each memory, "
        f"{options.callers} callers, {options.rounds} turns of {options.seconds:.0f} s each"
    )
    for field, form in (
        ("resident", ".1%"), ("cold", ".1%"), ("first_p50", ".3f"), ("first_p99", ".3f"),
        ("per_second", ".2f"),
    ):  # fmt: skip
        for name, found in turns.items():
            values = [getattr(turn, field) for turn in found]
            print(f"  {field:11} {name:12} {spread(values, form)}")
    pairs = list(zip(turns["affinity"], turns["round robin"], strict=True))
    for field in ("cold", "first_p99", "per_second"):
        ratios = [getattr(a, field) / max(getattr(b, field), 1e-9) for a, b in pairs]
        print(f"  affinity / round robin, {field:10} {spread(ratios, '.2f')}")
    if options.json:
        document = {
            "replicas": options.replicas,
            "adapters": options.adapters,
            "memory": MEMORY,
            "callers": options.callers,
            "turns": {name: [asdict(turn) for turn in found] for name, found in turns.items()},
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.plot:
        _draw(turns, options)


def _draw(turns: dict[str, list[Turn]], options: argparse.Namespace) -> None:
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    titles = {
        "resident": "requests whose adapter was loaded, %",
        "cold": "requests that waited for a load, %",
        "first_p99": "p99 time to first token, s",
    }
    for axes, (field, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        scale = 1 if field == "first_p99" else 100
        for place, (name, colour) in enumerate(
            (("affinity", "#1f5f8b"), ("round robin", "#c0692b"))
        ):
            values = [scale * getattr(turn, field) for turn in turns[name]]
            middle = median(values)
            error = [[middle - min(values)], [max(values) - middle]]
            axes.bar(place, middle, color=colour, width=0.6, yerr=error, capsize=4)
            axes.text(place, middle / 2, f"{middle:.3g}", ha="center", color="white")
        axes.set_xticks([0, 1], ["affinity", "round robin"])
        axes.set_title(title, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{options.replicas} real vLLM replicas behind Envoy, {options.adapters} adapters, "
        f"{MEMORY} in each memory (median of {options.rounds}, whiskers: all)",
        fontsize=10,
    )
    figure.savefig(options.plot, dpi=130)


if __name__ == "__main__":
    main()
