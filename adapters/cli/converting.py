"""`lorary convert`, `lorary merge`: what cannot be served per request, made into what can."""

import json
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from adapters.cli.training import base_directory_of
from adapters.home import SMALL_MODEL
from adapters.options import AsJson
from adapters.terminal import working

Source = Annotated[Path, typer.Argument(help="What was trained.")]
Out = Annotated[Path, typer.Argument(help="Where to put the result; must not exist.")]
Base = Annotated[Path | None, typer.Option(help="The base model's directory.")]


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    app.command(rich_help_panel="Train")(convert)
    app.command(rich_help_panel="Train")(merge)


def convert(
    source: Source,
    out: Out,
    rank: Annotated[int, typer.Option(min=1, help="Of the plain LoRA.")] = 64,
    base: Base = None,
    as_json: AsJson = False,
) -> None:
    """Convert a DoRA, an IA3 or a fully fine-tuned model to the closest plain LoRA.

    Prints the share of the update that is lost, and notes it in the card. Evaluate the result
    before you use it.

    Example: lorary convert out/dora out/lora --rank 64
    """
    refuse_existing(out)
    from adapters.training import converting

    with working("converting", quiet=as_json):
        made = converting.convert(source, base or base_directory_of(SMALL_MODEL), out, rank=rank)
    print(json.dumps(msgspec.to_builtins(made)) if as_json else f"{out}: {made.said}")


def merge(source: Source, out: Out, base: Base = None, as_json: AsJson = False) -> None:
    """Merge an adapter into its base model: exact, as large as the base, a base of its own.

    Example: lorary merge out/dora out/model && lorary base add out/model --name icd10
    """
    refuse_existing(out)
    from adapters.training import converting

    with working("merging", quiet=as_json):
        converting.merge(source, base or base_directory_of(SMALL_MODEL), out)
    said = f"{out}: a model of its own. Serve it as a base model: `lorary base add {out}`."
    print(json.dumps({"path": str(out)}) if as_json else said)


def refuse_existing(out: Path) -> None:
    """Raises `typer.BadParameter` rather than overwrite."""
    if out.exists():
        raise typer.BadParameter(f"{out} exists. Choose another place.")
