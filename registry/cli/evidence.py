"""The command that shows a version's promotion requirements."""

from typing import Annotated, Any

import typer

from adapters.names import DEFAULT_ALIAS
from registry.cli.output import AsJson, client, emit, say


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    app.command()(gate)


def gate(
    ref: Annotated[str, typer.Argument(help="DOMAIN/ADAPTER@VERSION")],
    alias: Annotated[str, typer.Option(help="The alias that it shall become.")] = DEFAULT_ALIAS,
    as_json: AsJson = False,
) -> None:
    """May this version become production? Every requirement, its evidence, and what to do.

    Exit code 0 if it may, 1 if something is lacking.

    Example: lorary gate medical/icd10-coder@8
    """
    with client() as registry:
        answer = registry.requirements(ref, alias)
    emit(answer, as_json, lambda: _show(answer))
    if not answer["met"]:
        raise typer.Exit(1)


def _show(answer: dict[str, Any]) -> None:
    asked = answer["requirements"]
    for item in asked:
        say(f"{'met    ' if item['met'] else 'NOT MET'}  {item['name']}: {item['evidence']}")
        if item["remedy"]:
            say(f"         what to do: {item['remedy']}")
    lacking = sum(not item["met"] for item in asked)
    if not answer["guarded"]:
        say(f"{answer['alias']} is not guarded: any version of the adapter may become it.")
    elif lacking:
        say(f"{answer['ref']} may not become {answer['alias']} yet: it lacks {lacking}.")
    else:
        say(f"{answer['ref']} may become {answer['alias']}.")
