"""`lorary small-model`, `lorary data`: the base model and the data sets that recipes start from."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from adapters.home import default_model
from adapters.packs import TASKS, DomainPack
from adapters.recipe import BadRecipe

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Task = Annotated[str, typer.Argument(help="medical, legal, financial, ...")]


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    app.command("small-model")(small_model)
    app.command()(data)


def small_model(as_json: AsJson = False) -> None:
    """Build the small base model unless it is there, and print where it lies.

    Example: lorary small-model --json
    """
    from adapters import small_model

    directory = default_model()
    built = small_model.build(directory)
    said = json.dumps({"path": str(directory), "built": built})
    print(said if as_json else f"{'Built' if built else 'Found'} {directory}")


def data(
    domain: Task,
    out: Annotated[Path | None, typer.Option(help="Write the items as JSON Lines.")] = None,
    as_json: AsJson = False,
) -> None:
    """Build a domain's data set from its sources and describe it.

    Example: lorary data medical --out medical.jsonl
    """
    pack = _pack(domain)
    built = pack.load()
    if out is not None:
        with out.open("wb") as file:
            for side, items in (("train", built.train), ("held_out", built.held_out)):
                for item in items:
                    row = {"split": side, **msgspec.to_builtins(item)}
                    file.write(msgspec.json.encode(row) + b"\n")
    counts = {
        "train": Counter(item.label for item in built.train),
        "held_out": Counter(item.label for item in built.held_out),
    }
    sources = {
        source.package: {
            "version": source.version,
            "sha256": source.sha256,
            "licence": source.licence,
        }
        for source in pack.sources
    }
    if as_json:
        described = {"domain": domain, "digest": built.digest, **counts, "sources": sources}
        print(json.dumps(described, indent=2))
        return
    print(f"{domain}: {len(built.train)} to train on, {len(built.held_out)} held out")
    print(f"digest {built.digest}")
    for label in pack.labels:
        print(f"  {counts['train'][label]:5} {counts['held_out'][label]:4}  {label}")


def _pack(domain: str) -> DomainPack:
    if domain not in TASKS:
        raise BadRecipe(f"There is no task {domain!r}. Choose {', '.join(TASKS)}.")
    return TASKS[domain]
