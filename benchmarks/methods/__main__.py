"""Every training method on one task at equal budget: parameters, memory, time, accuracy.

    python -m benchmarks.methods --seeds 3 --minutes 8        # go on where it stopped; draw

Each cell (a method with a seed) is a process of its own, so that its peak memory is its own, and
one file under --out; cells that are there are not run again, and what they trained is not kept.
Budget means the same examples seen: steps times batch. Learning rates are each method's usual order
of magnitude, not tuned here. Accuracy is that of free greedy answers on held-out items, by
transformers and PEFT: vLLM cannot serve all of these methods. Bottleneck adapters are AdapterHub's.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec

from adapters import recipes
from adapters.home import default_model
from adapters.packs import TASKS
from adapters.recipe import AnyRecipe, Method
from adapters.small_model import build
from adapters.training.quiet import be_quiet
from benchmarks.methods.bottleneck import Made, bottleneck
from eval.statistics import Proportion, wilson

RATES = {
    "full": 1e-4, "lora": 1e-3, "rslora": 5e-4, "dora": 1e-3, "qlora": 1e-3,
    "ia3": 1e-2, "prefix": 1e-2, "prompt": 3e-2, "bottleneck": 1e-3,
}  # fmt: skip
METHODS: tuple[str, ...] = (*get_args(Method), "bottleneck")


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One method with one seed."""

    task: str
    method: str
    seed: int
    steps: int
    batch: int
    learning_rate: float
    trainable: int
    parameters: int
    peak_bytes: int
    seconds: float
    final_loss: float
    right: int
    n: int


def main() -> None:
    """Run the cells that lack, as far as the time reaches; print and draw what there is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--task", default="legal")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=70)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--n", type=int, default=150, help="held-out items")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no cell after these")
    parser.add_argument("--out", type=Path, default=Path("docs/curves/methods"))
    parser.add_argument("--plot", type=Path, help="write the bar chart to this file")
    parser.add_argument("--cell", nargs=2, metavar=("METHOD", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        run_cell(options, options.cell[0], int(options.cell[1]))
        return
    build(default_model())
    until = time.monotonic() + 60 * options.minutes
    lacking = []
    for seed in range(options.seeds):
        for method in options.methods:
            if place(options, method, seed).exists():
                continue
            if time.monotonic() > until:
                lacking.append(f"{method}/{seed}")
                continue
            print(f"{method}, seed {seed} ...", flush=True)
            again = [sys.executable, "-m", "benchmarks.methods", *sys.argv[1:]]
            subprocess.run([*again, "--cell", method, str(seed)], check=True)
    cells = [
        msgspec.json.decode(path.read_bytes(), type=Cell)
        for method in options.methods
        for seed in range(options.seeds)
        if (path := place(options, method, seed)).exists()
    ]
    if lacking:
        print(f"not run, for lack of time: {', '.join(lacking)}")
    if cells:
        show(cells)
        if options.plot:
            draw(cells, options.plot)


def place(options: argparse.Namespace, method: str, seed: int) -> Path:
    """The cell's file."""
    budget = f"{options.task}-{options.steps}x{options.batch}-n{options.n}"
    return Path(options.out, budget, f"{method}-{seed}.json")


def run_cell(options: argparse.Namespace, method: str, seed: int) -> None:
    """Train and judge one cell, and write its file."""
    be_quiet()
    from adapters.training.answering import right

    path, rate = place(options, method, seed), RATES[method]
    pack = TASKS[options.task]
    recipe = recipes.load("medical").changed(
        [
            f"adapter={pack.domain}/{method}",
            f"data={options.task}",
            f"learning_rate={rate}",
            f"seed={seed}",
            f"steps={options.steps}",
            f"batch={options.batch}",
        ]
    )
    items = pack.load().held_out[: options.n]
    asked = [pack.question(item) for item in items]
    if method == "bottleneck":
        made = bottleneck(recipe, default_model(), asked)
    else:
        made = by_peft(recipe.changed([f"method={method}"]), default_model(), asked)
    cell = Cell(
        task=options.task,
        method=method,
        seed=seed,
        steps=options.steps,
        batch=options.batch,
        learning_rate=rate,
        trainable=made.trainable,
        parameters=made.parameters,
        peak_bytes=made.peak_bytes,
        seconds=made.seconds,
        final_loss=made.final_loss,
        right=sum(right(items, made.answers)),
        n=len(items),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(cell)) + b"\n")


def by_peft(recipe: AnyRecipe, base: Path, asked: Sequence[str]) -> Made:
    """Train by our recipe and answer what is asked; what was trained is not kept."""
    from adapters.training.answering import answers, load
    from adapters.training.run import train

    with tempfile.TemporaryDirectory() as folder:
        trained = Path(folder, "trained")
        told, _ = train(recipe, base, trained, progress=lambda *_: None)
        given = answers(load(base, trained), base, asked)
    return Made(
        trainable=told.trainable,
        parameters=told.parameters,
        peak_bytes=told.peak_bytes,
        seconds=told.seconds,
        final_loss=told.final_loss,
        answers=given,
    )


def pooled(cells: list[Cell]) -> dict[str, tuple[list[Cell], Proportion]]:
    """By method: its cells, and their accuracy over all seeds."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.method, []).append(cell)
    return {
        m: (cs, wilson(sum(c.right for c in cs), sum(c.n for c in cs))) for m, cs in found.items()
    }


def show(cells: list[Cell]) -> None:
    """A table; the interval is Wilson's over all seeds' answers, the range over the seeds."""
    first = cells[0]
    print(f"\n{first.task}, {first.steps} steps of {first.batch}, n = {first.n} a seed")
    print(
        f"{'method':8} {'trained':>12} {'peak GB':>8} {'s':>6} {'rate':>7}  accuracy, 95 %"
        "      seeds"
    )
    for method, (runs, accuracy) in pooled(cells).items():
        rates = [100 * run.right / run.n for run in runs]
        print(
            f"{method:8} {runs[0].trainable:12,} {max(r.peak_bytes for r in runs) / 1e9:8.2f} "
            f"{sum(r.seconds for r in runs) / len(runs):6.0f} {runs[0].learning_rate:7.0e}  "
            f"{100 * accuracy.rate:5.1f} % ({100 * accuracy.low:.0f}-{100 * accuracy.high:.0f})"
            f"   {len(runs)}: {min(rates):.1f}-{max(rates):.1f}"
        )
    print(json.dumps([msgspec.to_builtins(cell) for cell in cells]), file=sys.stderr)


def draw(cells: list[Cell], path: Path) -> None:
    """Three groups of bars side by side: accuracy, peak memory, share of parameters trained."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    by_method, first = pooled(cells), cells[0]
    names = list(by_method)
    figure, panels = pyplot.subplots(1, 3, figsize=(12, 4), layout="constrained")
    accuracy = [score for _, score in by_method.values()]
    below = [100 * (a.rate - a.low) for a in accuracy]
    above = [100 * (a.high - a.rate) for a in accuracy]
    bars: list[tuple[str, list[float], Any]] = [
        ("held-out accuracy, %", [100 * a.rate for a in accuracy], (below, above)),
        ("peak memory, GB", [max(c.peak_bytes for c in cs) / 1e9 for cs, _ in by_method.values()],
         None),
        ("parameters trained", [cs[0].trainable for cs, _ in by_method.values()], None),
    ]  # fmt: skip
    for panel, (title, heights, errors) in zip(panels, bars, strict=True):
        panel.bar(names, heights, yerr=errors, capsize=3, color="#1a73e8")
        panel.set_title(title)
        panel.tick_params(axis="x", rotation=45)
        panel.spines[["top", "right"]].set_visible(False)
    panels[2].set_yscale("log")
    figure.suptitle(
        f"{first.task}: {first.steps} steps of {first.batch}, "
        f"{max(len(cs) for cs, _ in by_method.values())} seed(s), n = {first.n} each"
    )
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
