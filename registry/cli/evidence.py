"""The command that shows a version's promotion requirements."""

from typing import Annotated, Any

import msgspec
import typer

from adapters.errors import LoraryError
from adapters.names import DEFAULT_ALIAS
from registry.cli.output import AsJson, client, emit, say, warn
from registry.model.requirement import Requirement, State, verdict_of

UNDECIDED = 3
"""Exit code of `gate` where it cannot tell, so that a pipeline can tell it from a no."""
_STATES: dict[State, str] = {"met": "met", "not met": "NOT MET", "hidden": "hidden"}


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    app.command(rich_help_panel="Release")(gate)


def gate(
    ref: Annotated[str, typer.Argument(help="DOMAIN/ADAPTER@VERSION")],
    alias: Annotated[str, typer.Option(help="The alias to promote it to.")] = DEFAULT_ALIAS,
    as_json: AsJson = False,
) -> None:
    """Check whether a version may be promoted: each requirement, its evidence, what to do.

    Exit code 0: it may. 1: a requirement is not met. 3: not known, because the registry was not
    reached, refused the key or knows no such version, or an open review hides its results from you.

    Example: lorary gate medical/icd10-coder@8
    """
    try:
        with client() as registry:
            answer = registry.requirements(ref, alias)
    except LoraryError as error:
        warn(f"lorary: {error.message}")
        raise typer.Exit(UNDECIDED) from error
    emit(answer, as_json, lambda: _show(answer))
    if not answer["met"]:
        raise typer.Exit(1 if verdict_of(answer).state == "not met" else UNDECIDED)


def _show(answer: dict[str, Any]) -> None:
    for item in msgspec.convert(answer["requirements"], tuple[Requirement, ...]):
        say(f"{_STATES[item.state]:7}  {item.name}: {item.evidence}")
        if item.remedy:
            say(f"         what to do: {item.remedy}")
    say(verdict_of(answer).sentence)
