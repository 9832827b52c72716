"""`lorary matrix`: the cross-domain matrix as a table, JSON or a picture."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from eval.errors import EvaluationFailed


def register(app: typer.Typer) -> None:
    """Add this command to `lorary`."""
    app.command(rich_help_panel="Evaluate")(matrix)


def matrix(
    url: Annotated[str, typer.Option(help="The API of a running server.")] = (
        "http://127.0.0.1:8000/v1"
    ),
    key: Annotated[
        str, typer.Option(envvar="LORARY_KEY", help="A key with the role infer in every domain.")
    ] = "",
    base: Annotated[str, typer.Option(help="The base model's name.")] = "smollm2-135m-instruct",
    n: Annotated[int, typer.Option(min=1, help="Held-out items per domain.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write a picture (PNG or SVG).")] = None,
) -> None:
    """Evaluate every domain's adapter and the base model on every domain's held-out items.

    Example: lorary matrix --n 100 --plot matrix.png
    """
    import openai
    from rich.console import Console
    from rich.progress import Progress

    from adapters.packs import PACKS
    from eval import report
    from eval.baseline import classify
    from eval.matrix import measure
    from eval.statistics import wilson

    data = {domain: pack.load() for domain, pack in PACKS.items()}
    held_out = {domain: (PACKS[domain], data[domain].held_out[:n]) for domain in PACKS}
    models = {base: "", **{domain: domain for domain in PACKS}}
    console = Console(stderr=True)
    with Progress(console=console, disable=as_json) as progress:
        asked = sum(len(items) for _, items in held_out.values())
        bar = progress.add_task("asking", total=asked * len(models))
        client = openai.AsyncOpenAI(base_url=url, api_key=key or "none")
        try:
            asking = measure(client, models, held_out, asked=lambda: progress.advance(bar))
            cells = asyncio.run(asking)
        except openai.OpenAIError as error:
            raise EvaluationFailed(f"{url}: {error}. Check the server, --url and --key.") from error
    baseline = {}
    for domain, (_, items) in held_out.items():
        labels = classify(data[domain].train, items)
        right = sum(label == item.label for label, item in zip(labels, items, strict=True))
        baseline[domain] = wilson(right, len(items))
    if as_json:
        print(json.dumps(report.as_document(cells, baseline), indent=2))
    else:
        report.show(cells, baseline, base)
    if plot is not None:
        report.draw(cells, baseline, base, plot)
