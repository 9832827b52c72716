"""`lorary convert`, `lorary merge`: what cannot be served per request, made into what can."""

import json
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from adapters.cli.sources import AsJson
from adapters.cli.training import base_of
from adapters.home import SMALL_MODEL

Source = Annotated[Path, typer.Argument(help="What was trained.")]
Out = Annotated[Path, typer.Argument(help="Where to put the result; must not exist.")]
Base = Annotated[Path | None, typer.Option(help="The base model's directory.")]


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    app.command()(convert)
    app.command()(merge)


def convert(
    source: Source,
    out: Out,
    rank: Annotated[int, typer.Option(min=1, help="Of the plain LoRA.")] = 64,
    base: Base = None,
    as_json: AsJson = False,
) -> None:
    """Make the closest plain LoRA of a DoRA, an IA3 or a fully fine-tuned model.

    Says what share of the update is lost, also in the card. Evaluate the result before you use it.

    Example: lorary convert out/dora out/lora --rank 64
    """
    from adapters.training import converting

    refuse_existing(out)
    made = converting.convert(source, base or base_of(SMALL_MODEL), out, rank=rank)
    print(json.dumps(msgspec.to_builtins(made)) if as_json else f"{out}: {made.said}")


def merge(source: Source, out: Out, base: Base = None, as_json: AsJson = False) -> None:
    """Make base and adapter one model: exact, as large as the base, served as a base of its own.

    Example: lorary merge out/dora out/model && lorary base add out/model --name icd10
    """
    from adapters.training import converting

    refuse_existing(out)
    converting.merge(source, base or base_of(SMALL_MODEL), out)
    said = f"{out}: a model of its own. Serve it as a base model: `lorary base add {out}`."
    print(json.dumps({"path": str(out)}) if as_json else said)


def refuse_existing(out: Path) -> None:
    """Raises `typer.BadParameter` rather than overwrite."""
    if out.exists():
        raise typer.BadParameter(f"{out} exists. Choose another place.")
