"""`lorary small-model` and `lorary data`: the default base model and the shipped data sets."""

import json
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from adapters.home import default_model
from adapters.options import AsJson
from adapters.packs import TASKS, DomainPack
from adapters.recipe import BadRecipe
from adapters.terminal import working

Task = Annotated[str, typer.Argument(help="A shipped task: medical, legal, financial, ...")]


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    app.command("small-model", rich_help_panel="Train")(small_model)
    app.command(rich_help_panel="Train")(data)


def small_model(as_json: AsJson = False) -> None:
    """Build the small base model if it is missing, and print its directory.

    Example: lorary small-model --json
    """
    from adapters import small_model

    directory = default_model()
    with working("building the small model", quiet=as_json):
        built = small_model.build(directory)
    print(json.dumps({"path": str(directory), "built": built}) if as_json else directory)


def data(
    task: Task,
    out: Annotated[Path | None, typer.Option(help="Write the items as JSON Lines.")] = None,
    card: Annotated[Path | None, typer.Option(help="Write the data card as Markdown.")] = None,
    as_json: AsJson = False,
) -> None:
    """Build a task's data set from its sources and describe it.

    Example: lorary data medical --out medical.jsonl

    Example: lorary data financial-sector --card sector.md
    """
    from adapters.packs.datacard import data_card, manifest

    pack = _pack(task)
    with working("building the data set", quiet=as_json):
        built, described = pack.load(), manifest(pack)
    if out is not None:
        with out.open("wb") as file:
            for split, items in (("train", built.train), ("held_out", built.held_out)):
                for item in items:
                    row = {"split": split, **msgspec.to_builtins(item)}
                    row |= {"prompt": pack.question(item), "completion": item.label}
                    file.write(msgspec.json.encode(row) + b"\n")
    if card is not None:
        card.write_text(data_card(pack))
    if as_json:
        print(json.dumps(described, indent=2))
        return
    print(f"{task}: {len(built.train)} to train on, {len(built.held_out)} held out")
    print(f"digest {built.digest}")
    for label in pack.labels:
        counts = (described[split].get(label, 0) for split in ("train", "held_out"))
        print("  {:5} {:4}  {}".format(*counts, label))


def _pack(task: str) -> DomainPack:
    """The pack of a shipped task. Raises `BadRecipe` if none has that name."""
    if task not in TASKS:
        raise BadRecipe(f"There is no task {task!r}. Choose {', '.join(TASKS)}.")
    return TASKS[task]
