"""`lorary train`: trains an adapter from a recipe into a directory that can be published."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from adapters import recipes
from adapters.handover import Registry
from adapters.home import SMALL_MODEL, default_model, home
from adapters.names import AdapterRef
from adapters.options import AsJson
from adapters.recipe import AnyRecipe, BadRecipe, Reward
from adapters.terminal import working
from adapters.training.fits import Fit
from adapters.training.processes import is_first
from adapters.training.serving import not_served


def register(app: typer.Typer) -> None:
    """Add this command to `lorary`."""
    app.command(rich_help_panel="Train")(train)


def train(
    context: typer.Context,
    recipe: Annotated[
        str, typer.Argument(help="A YAML file, or a shipped recipe: medical, ... Omit with --task.")
    ] = "",
    assignments: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Change the recipe, such as steps=200."),
    ] = None,
    task: Annotated[
        Path | None,
        typer.Option(help="A task's folder: train by its recipe.yaml, on its training items."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to put the result.")] = None,
    base: Annotated[Path | None, typer.Option(help="The base model's directory.")] = None,
    reuse: Annotated[
        bool, typer.Option(help="Do not train again if --out has a result of the same plan.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(help="Run three steps, estimate the whole time and memory, keep nothing."),
    ] = False,
    report_to: Annotated[
        list[str] | None,
        typer.Option(help="Also log to tensorboard, mlflow, trackio, ... if installed."),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="DOMAIN/NAME", help="Publish the result as that adapter's next version."
        ),
    ] = None,
    parent: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION",
            help="The version that training starts from, for the lineage: DOMAIN/NAME@NUMBER. "
            "By default with --push, the one with the weights in `start`.",
        ),
    ] = None,
    memory_check: Annotated[
        bool,
        typer.Option(help="Measure the memory first, and refuse if it does not suffice."),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Train an adapter from a recipe and write a directory to publish.

    A killed training resumes from its last checkpoint when the command is repeated.
    Stages: sft, classify, reward, dpo, kto, ppo, rloo, grpo. Rows of a .jsonl file under `data`, by
    stage: sft {"prompt", "completion"} or {"messages"}; classify {"text", "label"}; reward, dpo,
    kto {"prompt", "chosen", "rejected"}; kto also {"prompt", "completion", "label"}; ppo, rloo,
    grpo {"prompt"}. Train on a part of a source with a range in percent, such as "medical[:60%]";
    rows that a split keeps together stay together.

    Example: lorary train medical steps=200 seed=1 --out out/icd10-coder

    Example: lorary train medical-dpo data=judged.jsonl start=out/icd10-coder

    Example: lorary train financial-classify data=tickets.jsonl adapter=support/queue

    Example: lorary train --task radiology-modality steps=60 --out out/modality

    Example: lorary train mine.yaml --push support/queue
    """
    from adapters.training import continued, run
    from adapters.training.progress import progress_bar

    chosen = _load_recipe(recipe, list(assignments or []), task)
    base_directory = base or base_directory_of(chosen.base)
    if not base_directory.is_dir():
        how = "Specify another" if base else "Build it: lorary small-model; or specify one"
        raise BadRecipe(f"There is no base model in {base_directory}. {how}: --base DIRECTORY.")
    if is_first() and (warning := continued.answers_seen(chosen)) is not None:
        print(f"Note: {warning}", file=sys.stderr)
    if dry_run:
        with working("three steps of the training", quiet=as_json):
            estimate = run.rehearse(chosen, base_directory)
        _print_estimate(estimate, chosen.max_tokens, as_json)
        return
    registry = None if push is None else _registry_for_push(context, chosen, push)
    if parent is None and registry is not None:
        parent = continued.parent_of(chosen, registry)
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
            on_fit=_print_fit if memory_check else None,
            parent=parent,
        )
    if not is_first():
        return
    why_not = not_served(chosen)
    published = None
    if registry is not None and push is not None:
        published = registry.publish(directory, push, chosen.base)
    if as_json:
        result = {
            "path": str(directory), "reused": reused, "not_served": why_not, "published": published
        }  # fmt: skip
        print(json.dumps({**result, **msgspec.to_builtins(provenance)}, indent=2))
        return
    how = "kept, nothing changed" if reused else f"trained in {provenance.seconds:.0f} s"
    print(f"{directory}: {how}, loss {provenance.final_loss:.3f}")
    if provenance.leaked_items:
        print(_leaked_note(provenance.leaked_items))
    if provenance.dropped_items:
        print(_dropped_note(provenance.dropped_items, chosen.max_tokens))
    if why_not is not None:
        print(why_not)
    if published is not None:
        print(f"Published as {published}.")


def _registry_for_push(context: typer.Context, recipe: AnyRecipe, push: str) -> Registry:
    """The registry to publish the result in.

    Raises `BadRecipe`, before any training, if the result could not be published as `push`.
    """
    reference = AdapterRef.parse(push)
    if reference.adapter is None or reference.version or reference.alias:
        raise BadRecipe(f"--push is {push!r}; write DOMAIN/NAME.")
    why_not = not_served(recipe)
    if why_not is not None and not isinstance(recipe, Reward):
        raise BadRecipe(f"The result could not be published. {why_not}")
    if context.obj is None:
        raise BadRecipe("--push works in the command `lorary` only.")
    registry: Registry = context.obj
    return registry


def _load_recipe(recipe: str, assignments: list[str], task: Path | None) -> AnyRecipe:
    """The recipe with `assignments`, each KEY=VALUE, applied. Raises `BadRecipe`.

    With a task's folder it is the folder's recipe; then the first argument of the command, which
    `recipe` is, is an assignment, too.
    """
    from adapters.training.tasks import recipe_of

    if task is None:
        return recipes.load(recipe).changed(assignments)
    if recipe:
        assignments.insert(0, recipe)
    names = [each.removeprefix("adapter=") for each in assignments if each.startswith("adapter=")]
    return recipe_of(task, *names[-1:]).changed(assignments)


def base_directory_of(name: str) -> Path:
    """The directory of the base model `name`.

    Raises `BadRecipe` for every model but the small one: its directory must be given by `--base`.
    """
    if name == SMALL_MODEL:
        return default_model()
    raise BadRecipe(f"Specify the directory of the base model {name!r}: --base DIRECTORY.")


def _print_fit(fit: Fit) -> None:
    if is_first() and fit.fits:
        print(fit.said, file=sys.stderr)


def _print_estimate(estimate: dict[str, float], max_tokens: int, as_json: bool) -> None:
    """Print what `rehearse` measured. max_tokens: the recipe's, above which rows are left out."""
    if as_json:
        print(json.dumps(estimate, indent=2))
        return
    print(
        f"{estimate['steps']:.0f} steps of {estimate['step_seconds']:.2f} s: "
        f"{estimate['seconds'] / 60:.1f} min, {estimate['setup_seconds']:.0f} s of it before the "
        f"first step. Memory {estimate['peak_bytes'] / 1e9:.1f} GB; "
        f"the largest step needs about {estimate['needed_bytes'] / 1e9:.1f} GB of "
        f"{estimate['free_bytes'] / 1e9:.1f} GB free. "
        f"{estimate['trainable']:,.0f} of {estimate['parameters']:,.0f} parameters are trained. "
        "Measured on this machine over three steps; what the model is asked before, between and "
        "after is not counted."
    )
    if estimate["leaked"]:
        print(_leaked_note(int(estimate["leaked"])))
    if estimate["dropped"]:
        print(_dropped_note(int(estimate["dropped"]), max_tokens))


def _leaked_note(rows: int) -> str:
    return f"Left out {rows} rows whose text a task among the sources holds out."


def _dropped_note(rows: int, max_tokens: int) -> str:
    return f"Left out {rows} rows longer than max_tokens={max_tokens}, as too_long=drop says."
