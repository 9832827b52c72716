"""The command that shows a version's promotion requirements."""

from typing import Annotated, Any

import typer

from adapters.errors import LoraryError
from adapters.names import DEFAULT_ALIAS
from registry.cli.output import AsJson, client, emit, say, warn

UNDECIDED = 3
"""Exit code of `gate` where it cannot tell, so that a pipeline can tell it from a no."""


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
        raise typer.Exit(1 if _lacking(answer) else UNDECIDED)


def _lacking(answer: dict[str, Any]) -> int:
    """How many requirements are known not to be met."""
    return sum(not (item["met"] or item["hidden"]) for item in answer["requirements"])


def _show(answer: dict[str, Any]) -> None:
    asked = answer["requirements"]
    for item in asked:
        state = "met" if item["met"] else "hidden" if item["hidden"] else "NOT MET"
        say(f"{state:7}  {item['name']}: {item['evidence']}")
        if item["remedy"]:
            say(f"         what to do: {item['remedy']}")
    lacking = _lacking(answer)
    hidden = sum(item["hidden"] for item in asked)
    if not answer["guarded"]:
        say(f"{answer['alias']} is not guarded: any version of the adapter may become it.")
    elif lacking:
        also = f", {hidden} hidden from you" if hidden else ""
        say(
            f"{answer['ref']} may not become {answer['alias']} yet: "
            f"{lacking} of {len(asked)} requirements not met{also}."
        )
    elif not answer["met"]:
        say(f"Whether {answer['ref']} may become {answer['alias']} is hidden from you for now.")
    else:
        say(f"{answer['ref']} may become {answer['alias']}.")
