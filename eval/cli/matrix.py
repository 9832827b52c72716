"""`lorary matrix`: the cross-domain matrix as a table, JSON or a picture."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from adapters.home import SMALL_MODEL
from adapters.options import AsJson
from eval.cli.options import API_URL, Url
from eval.errors import EvaluationFailed, UnknownSuite


def register(app: typer.Typer) -> None:
    """Add this command to `lorary`."""
    app.command(rich_help_panel="Evaluate")(matrix)


def matrix(
    url: Url = API_URL,
    key: Annotated[
        str, typer.Option(envvar="LORARY_KEY", help="A key with the role infer in every domain.")
    ] = "",
    base: Annotated[str, typer.Option(help="The base model's name.")] = SMALL_MODEL,
    task: Annotated[
        list[Path],
        typer.Option(
            help="A task's folder, of kind label, that names its domain, instead of the shipped "
            "domains' tasks; may be repeated.",
        ),
    ] = [],  # noqa: B006 - typer copies it
    n: Annotated[int, typer.Option(min=1, help="Held-out items per domain.")] = 100,
    as_json: AsJson = False,
    plot: Annotated[Path | None, typer.Option(help="Write a picture (PNG or SVG).")] = None,
) -> None:
    """Evaluate every domain's adapter and the base model on every domain's held-out items.

    Each task's domain is asked for by its name, so that its default adapter answers.

    Example: lorary matrix --n 100 --plot matrix.png

    Example: lorary matrix --task radiology-modality --task cardiology-rhythm
    """
    import openai
    from rich.console import Console
    from rich.progress import Progress

    from eval import report
    from eval.baseline import classify
    from eval.cli.suites import usable_task
    from eval.matrix import Cell, column, measure
    from eval.suites.shipped import specialists

    tasks = [usable_task(folder) for folder in task] or specialists()
    columns = [column(one, n) for one in tasks]
    domains = [one.domain for one in columns]
    if len(set(domains)) < len(domains):
        raise UnknownSuite("Two of the tasks are for one domain. Name one of them.")
    models = {base: "", **{domain: domain for domain in domains}}
    console = Console(stderr=True)
    with Progress(console=console, disable=as_json) as progress:
        asked = sum(len(one.questions) for one in columns)
        bar = progress.add_task("asking", total=asked * len(models))
        client = openai.AsyncOpenAI(base_url=url, api_key=key or "none")
        try:
            asking = measure(client, models, columns, asked=lambda: progress.advance(bar))
            cells = asyncio.run(asking)
        except openai.OpenAIError as error:
            raise EvaluationFailed(f"{url}: {error}. Check the server, --url and --key.") from error
    for one in columns:
        labels = classify(one.train, one.held_out)
        right = (label == item.label for label, item in zip(labels, one.held_out, strict=True))
        cells.append(Cell(report.TFIDF_ROW, one.domain, tuple(right)))
    if as_json:
        print(json.dumps(report.as_document(cells), indent=2))
    else:
        report.show(cells, base)
    if plot is not None:
        report.draw(cells, base, plot)
