"""The training side of a task's folder, as rows that every stage reads."""

from pathlib import Path
from typing import Any

import msgspec

from adapters import recipes
from adapters.packs.contamination import words
from adapters.recipe import AnyRecipe, BadRecipe, Sft
from adapters.tasks import read
from adapters.tasks.checking import usable
from adapters.tasks.folder import RECIPE, SPEC

HERE = "."
"""What a task's own recipe calls its training side."""


def is_task(source: str) -> bool:
    """Whether a recipe's source is a task's folder."""
    return Path(source).joinpath(SPEC).is_file()


def recipe_of(folder: Path, adapter: str = "") -> AnyRecipe:
    """How to train for a task: as its `recipe.yaml` says, else by supervised fine-tuning.

    adapter: DOMAIN/NAME, which is needed if neither a recipe nor the task says it. Raises
    `BadRecipe`, and `InvalidTask` for a folder that is no task.
    """
    task = read(folder)
    if task.recipe is None:
        known = adapter or (f"{task.spec.domain}/{task.spec.name}" if task.spec.domain else "")
        if not known:
            raise BadRecipe(
                f"{folder} has no {RECIPE}. Say what the result is published as: "
                "adapter=DOMAIN/NAME"
            )
        return Sft(adapter=known, data=(str(folder),))
    recipe = recipes.load(str(folder / RECIPE))
    data = tuple(str(folder) if source == HERE else source for source in recipe.data)
    return msgspec.structs.replace(recipe, data=data)


def of_task(source: str, *, labelled: bool) -> tuple[list[dict[str, Any]], str]:
    """Each item of the training side as a row, and the SHA-256 of the task's files.

    labelled: text and label, which a classification head learns, instead of prompt and completion.
    Raises `BadRecipe` if there is nothing to train on, and `InvalidTask` if training would show
    held-out items.
    """
    task = read(Path(source))
    usable(task)
    items = task.side("train")
    if not items:
        raise BadRecipe(f"{source} is for judging only: all of its items are held out.")
    if not all(item.target for item in items):
        raise BadRecipe(
            f"Items of {source} have no target, so there is no answer to learn. Write targets, or "
            "train on other data."
        )
    rows: list[dict[str, Any]] = [
        {"text": item.text, "label": item.target, "unit": item.group}
        if labelled
        else {"prompt": task.prompt(item), "completion": item.target, "unit": item.group}
        for item in items
    ]
    return rows, task.digest


def held_out_of(source: str) -> frozenset[tuple[str, ...]]:
    """The words of every held-out text of a task's folder, and of how it is asked."""
    task = read(Path(source))
    items = (*task.side("held_out"), *task.side("calibration"))
    return frozenset(words(text) for item in items for text in (item.text, task.prompt(item)))
