"""Commands about what a version has proved: gate, and policies written as files."""

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from adapters.names import DEFAULT_ALIAS
from registry.cli.output import AsJson, client, emit, say
from registry.errors import BadRequest


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


def read_policy(file: Path, context: typer.Context) -> dict[str, Any]:
    """The policy that a YAML file writes. Raises `BadRequest`, also if flags were given beside."""
    given = [
        name
        for name in context.params
        if name not in ("domain", "file", "as_json")
        and getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise BadRequest(f"{flags} cannot stand beside a file. Write them into {file}.")
    try:
        policy = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadRequest(f"{file} is no YAML: {error}. Correct it.") from error
    if not isinstance(policy, dict):
        raise BadRequest(
            f"{file} holds no policy. Write `approvals: 2`, `suites: [...]` and so on."
        )
    return policy
