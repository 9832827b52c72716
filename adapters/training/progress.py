"""How a training is shown to the person who waits for it."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from adapters.recipe import Recipe
from adapters.training.job import Progress


@contextmanager
def progress_bar(recipe: Recipe, *, quiet: bool) -> Iterator[Progress]:
    """A bar with the loss and the time left; what it yields is called after each step."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Bars(*columns, console=Console(stderr=True), disable=quiet) as bars:
        bar = bars.add_task(f"{recipe.stage} {recipe.adapter}", total=recipe.steps, loss="")

        def advance(step: int, steps: int, loss: float) -> None:
            bars.update(bar, completed=step, total=steps, loss=f"loss {loss:.3f}")

        yield advance
