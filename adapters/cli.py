"""`lorary small-model`, `lorary data`, `lorary train`: from nothing to an adapter on disk."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from adapters.errors import LoraryError
from adapters.home import SMALL_MODEL, default_model, home
from adapters.packs import PACKS, DomainPack

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Domain = Annotated[str, typer.Argument(help="medical, legal or financial")]


class BadRecipe(LoraryError):
    """A recipe or a domain that does not exist."""

    status = 400
    code = "bad_recipe"


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    app.command("small-model")(small_model)
    app.command()(data)
    app.command()(train)


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
    domain: Domain,
    out: Annotated[Path | None, typer.Option(help="Write the items as JSON Lines.")] = None,
    as_json: AsJson = False,
) -> None:
    """Build a domain's data set from its sources and describe it.

    Example: lorary data medical --out medical.jsonl
    """
    import msgspec

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


def train(
    domain: Domain,
    out: Annotated[Path | None, typer.Option(help="Where to put the adapter.")] = None,
    base: Annotated[Path | None, typer.Option(help="The base model's directory.")] = None,
    base_name: Annotated[str, typer.Option(help="Its registered name.")] = SMALL_MODEL,
    assignments: Annotated[
        list[str], typer.Option("--set", help="Change the recipe: KEY=VALUE, such as steps=200.")
    ] = [],  # noqa: B006 - typer copies it
    reuse: Annotated[
        bool, typer.Option(help="Keep an adapter that the same plan made before.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a domain's adapter and write a publishable PEFT directory.

    Example: lorary train medical --out out/icd10-coder --set steps=200 --set seed=1
    """
    import msgspec
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    from adapters.training.run import train as run

    pack = _pack(domain)
    try:
        recipe = pack.recipe.changed(assignments)
    except (ValueError, msgspec.ValidationError) as error:
        raise BadRecipe(f"{error}. See `lorary train --help`.") from error
    directory = out or home() / "adapters" / domain / pack.adapter
    columns = (
        TextColumn("training {task.fields[domain]}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"), Remaining(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), disable=as_json) as bars:
        bar = bars.add_task("", total=recipe.steps, domain=domain, loss=float("nan"))

        def advance(step: int, _steps: int, loss: float) -> None:
            bars.update(bar, completed=step, loss=loss)

        provenance, reused = run(
            pack,
            recipe,
            base or default_model(),
            base_name,
            directory,
            reuse=reuse,
            progress=advance,
        )
        bars.update(bar, completed=recipe.steps, loss=provenance.final_loss)
    if as_json:
        told = {"path": str(directory), "reused": reused, **msgspec.to_builtins(provenance)}
        print(json.dumps(told, indent=2))
    else:
        how = "kept, nothing changed" if reused else f"trained in {provenance.seconds:.0f} s"
        print(f"{directory}: {how}, loss {provenance.final_loss:.3f}")


def _pack(domain: str) -> DomainPack:
    if domain not in PACKS:
        raise BadRecipe(f"There is no pack for {domain!r}. Choose {', '.join(PACKS)}.")
    return PACKS[domain]
