"""`lorary train`: from a recipe to a directory that can be published."""

import json
import os
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from adapters import recipes
from adapters.cli.sources import AsJson
from adapters.home import SMALL_MODEL, default_model, home
from adapters.recipe import AnyRecipe, BadRecipe
from adapters.training.processes import is_first
from adapters.training.serving import not_served


def register(app: typer.Typer) -> None:
    """Add this command to `lorary`."""
    app.command()(train)


def train(
    recipe: Annotated[
        str, typer.Argument(help="A YAML file, or a shipped recipe: medical, ... None with --task.")
    ] = "",
    assignments: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Change the recipe, such as steps=200."),
    ] = None,
    task: Annotated[
        Path | None,
        typer.Option(help="A task's folder: train as its recipe.yaml says, on its training side."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to put the result.")] = None,
    base: Annotated[Path | None, typer.Option(help="The base model's directory.")] = None,
    reuse: Annotated[
        bool, typer.Option(help="Keep a result that the same plan made before.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Run three steps, tell time and memory of the whole, keep nothing.")
    ] = False,
    report_to: Annotated[
        list[str] | None,
        typer.Option(help="Also log to tensorboard, mlflow, trackio, ... if installed."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train what a recipe says and write a publishable directory.

    A training that was killed goes on from its last checkpoint when the command is repeated.
    Stages: sft, classify, reward, dpo, kto, ppo, rloo, grpo. Rows of a .jsonl file under `data`, by
    stage: sft {"prompt", "completion"} or {"messages"}; classify {"text", "label"}; reward, dpo,
    kto {"prompt", "chosen", "rejected"}; kto also {"prompt", "completion", "label"}; ppo, rloo,
    grpo {"prompt"}. A part of any source, in percent of what a split keeps together:
    "medical[:60%]".

    Example: lorary train medical steps=200 seed=1 --out out/icd10-coder

    Example: lorary train medical-dpo data=judged.jsonl start=out/icd10-coder

    Example: lorary train financial-classify data=tickets.jsonl adapter=support/queue

    Example: lorary train --task radiology-modality steps=60 --out out/modality
    """
    from adapters.training import run
    from adapters.training.progress import progress_bar

    chosen = _chosen(recipe, list(assignments or []), task)
    base_directory = base or base_of(chosen.base)
    if dry_run:
        _tell_estimate(run.rehearse(chosen, base_directory), chosen.max_tokens, as_json)
        return
    directory = out or home() / "adapters" / chosen.adapter
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(home() / "logs" / chosen.adapter))
    with progress_bar(chosen, quiet=as_json or not is_first()) as advance:
        provenance, reused = run.train(
            chosen,
            base_directory,
            directory,
            reuse=reuse,
            progress=advance,
            report_to=tuple(report_to or ()),
        )
    if not is_first():
        return
    why_not = not_served(chosen)
    if as_json:
        told = {"path": str(directory), "reused": reused, "not_served": why_not}
        print(json.dumps({**told, **msgspec.to_builtins(provenance)}, indent=2))
        return
    how = "kept, nothing changed" if reused else f"trained in {provenance.seconds:.0f} s"
    print(f"{directory}: {how}, loss {provenance.final_loss:.3f}")
    if provenance.dropped_items:
        print(_dropped(provenance.dropped_items, chosen.max_tokens))
    if why_not is not None:
        print(why_not)


def _chosen(recipe: str, assignments: list[str], task: Path | None) -> AnyRecipe:
    """The recipe with its changes. Raises `BadRecipe`."""
    from adapters.training.tasks import recipe_of

    if task is None:
        return recipes.load(recipe).changed(assignments)
    if recipe:
        assignments.insert(0, recipe)
    said = [each.removeprefix("adapter=") for each in assignments if each.startswith("adapter=")]
    return recipe_of(task, *said[-1:]).changed(assignments)


def base_of(name: str) -> Path:
    """Where the base model of that name lies. Raises `BadRecipe` if only `--base` can tell."""
    if name == SMALL_MODEL:
        return default_model()
    raise BadRecipe(f"Where does the base model {name!r} lie? Say it with --base DIRECTORY.")


def _tell_estimate(estimate: dict[str, float], most: int, as_json: bool) -> None:
    if as_json:
        print(json.dumps(estimate, indent=2))
        return
    print(
        f"{estimate['steps']:.0f} steps of {estimate['step_seconds']:.2f} s: "
        f"{estimate['seconds'] / 60:.1f} min, {estimate['setup_seconds']:.0f} s of it before the "
        f"first step. Memory {estimate['peak_bytes'] / 1e9:.1f} GB. "
        f"{estimate['trainable']:,.0f} of {estimate['parameters']:,.0f} parameters are trained. "
        "Measured on this machine over three steps; what the model is asked before, between and "
        "after is not counted."
    )
    if estimate["dropped"]:
        print(_dropped(int(estimate["dropped"]), most))


def _dropped(rows: int, most: int) -> str:
    return f"Left out {rows} rows longer than max_tokens={most}, as too_long=drop says."
