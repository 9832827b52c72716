"""Our fine-tuning beside plain TRL on the same rows: seconds a step and peak memory.

    python -m benchmarks.training --rounds 3 --steps 6

Both train the same LoRA on the same examples in the same order, in float32, without gradient
checkpointing. Plain TRL gets prompt and completion columns and its own collator: one padded row an
example, logits at every position. Ours packs the batch behind its shared beginning and projects
only where an answer's token is predicted. Each run is a process of its own; the two take turns.
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from adapters import recipes
from adapters.home import default_model
from adapters.recipe import AnyRecipe
from adapters.small_model import build
from benchmarks.load import spread

SIDES = ("ours", "plain TRL")


def main() -> None:
    """Run the two in turn and print ratios with their spread."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--recipe", default="medical")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(run_side(options)))
        return
    build(default_model())
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for number in range(options.rounds):
        for side in SIDES if number % 2 == 0 else reversed(SIDES):
            command = [sys.executable, "-m", "benchmarks.training", *sys.argv[1:], "--side", side]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            runs[side].append(json.loads(done.stdout.splitlines()[-1]))
    ours, plain = runs["ours"], runs["plain TRL"]
    pairs = list(zip(ours, plain, strict=True))
    speed = [p["step_seconds"] / o["step_seconds"] for o, p in pairs]
    memory = [o["peak_bytes"] / p["peak_bytes"] for o, p in pairs]
    differ = max(
        abs(a - b) / b for o, p in pairs for a, b in zip(o["losses"], p["losses"], strict=True)
    )
    print(
        f"{options.recipe}: {options.steps} steps of {options.batch}, {options.rounds} rounds; "
        "median [min .. max]"
    )
    for side in SIDES:
        print(f"  {side:10} s a step   {spread([r['step_seconds'] for r in runs[side]], '.2f')}")
    for side in SIDES:
        print(
            f"  {side:10} peak GB    {spread([r['peak_bytes'] / 1e9 for r in runs[side]], '.2f')}"
        )
    print(f"  plain / ours, time    {spread(speed, '.2f')}")
    print(f"  ours / plain, memory  {spread(memory, '.2f')}")
    print(f"  losses differ by at most {100 * differ:.2f} %")
    if options.json:
        figures = {"runs": runs, "speed_ratio": median(speed), "memory_ratio": median(memory)}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def run_side(options: argparse.Namespace) -> dict[str, Any]:
    """One side's steps: what a step took once warm, the peak, and the losses."""
    recipe = recipes.load(options.recipe).changed(
        [f"steps={options.steps}", f"batch={options.batch}", "save_every=1000"]
    )
    ends: list[float] = []
    losses: list[float] = []

    def progress(_step: int, _steps: int, loss: float) -> None:
        ends.append(time.monotonic())
        losses.append(loss)

    with tempfile.TemporaryDirectory() as folder:
        (ours if options.side == "ours" else plain_trl)(recipe, Path(folder), progress)
    laps = [b - a for a, b in itertools.pairwise(ends)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"step_seconds": median(laps), "peak_bytes": peak, "losses": losses}


def ours(recipe: AnyRecipe, folder: Path, progress: Any) -> None:
    """What `lorary train` runs."""
    from adapters.training.data import corpus_of
    from adapters.training.job import Job
    from adapters.training.run import run_stage

    job = Job(
        recipe=recipe,
        base=default_model(),
        start=None,
        reward=None,
        workspace=folder / "work",
        progress=progress,
    )
    run_stage(job, corpus_of(recipe), folder / "out")


def plain_trl(recipe: AnyRecipe, folder: Path, progress: Any) -> None:
    """TRL's own SFT on prompt and completion columns."""
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from adapters.training.data import corpus_of
    from adapters.training.fit import drawn
    from adapters.training.models import peft_config, plain_prompt, tokenizer_of
    from adapters.training.quiet import be_quiet

    class Watch(TrainerCallback):  # type: ignore[misc] # transformers ships no types for it
        def on_log(self, *arguments: Any, **event: Any) -> None:
            if "loss" in event["logs"]:
                progress(arguments[1].global_step, recipe.steps, float(event["logs"]["loss"]))

    be_quiet()
    tokenizer = tokenizer_of(default_model())
    rows = drawn(corpus_of(recipe).train, recipe.steps * recipe.batch, recipe.seed)
    columns = [{"prompt": plain_prompt(tokenizer, r.prompt), "completion": r.answer} for r in rows]
    SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(default_model(), dtype=torch.float32),
        args=SFTConfig(
            output_dir=str(folder),
            max_steps=recipe.steps,
            per_device_train_batch_size=recipe.batch,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type=recipe.schedule,
            warmup_steps=recipe.warmup_steps,
            seed=recipe.seed,
            use_cpu=not torch.cuda.is_available(),
            bf16=False,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_list(columns),
        processing_class=tokenizer,
        peft_config=peft_config(recipe),
        callbacks=[Watch()],
    ).train()


if __name__ == "__main__":
    main()
