"""The `lorary` command: the registry's own commands, and what other packages add to them."""

import sys
from collections.abc import Sequence
from importlib.metadata import entry_points, version
from typing import Annotated

import typer

from registry.cli import (
    canary,
    commands,
    domains,
    events,
    evidence,
    exits,
    governing,
    keeping,
    looking,
    publishing,
    reviewing,
    setup,
    shadowing,
    tasks,
)
from registry.cli.handover import SettingsRegistry
from registry.cli.help import HelpGroup, dress
from registry.cli.renamed import current

COMMANDS = "lorary.commands"
"""Entry-point group; each entry is a function that takes the app and adds commands."""


def build() -> typer.Typer:
    """The whole application."""
    app = typer.Typer(
        name="lorary", cls=HelpGroup, rich_markup_mode=None, pretty_exceptions_enable=False
    )
    app.callback()(root)
    for part in (
        setup,
        publishing,
        canary,
        shadowing,
        looking,
        domains,
        governing,
        evidence,
        tasks,
        reviewing,
        keeping,
        events,
        commands,
    ):
        part.register(app)
    for entry in sorted(entry_points(group=COMMANDS), key=lambda entry: entry.name):
        entry.load()(app)
    dress(app)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lorary {version('lorary')}")
        raise typer.Exit


def root(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Publish, evaluate, promote and serve LoRA adapters.

    `lorary COMMAND --help` explains a command. `lorary config` shows the settings.

    Example: lorary push out/icd10-coder medical/icd10-coder

    Example: lorary gate medical/icd10-coder@8

    Example: lorary alias set medical/icd10-coder@8 production
    """


def run(arguments: Sequence[str]) -> int:
    """Run `lorary` with these arguments; its exit code, see `registry.cli.help.EXIT_CODES`."""
    return exits.run(
        lambda: typer.main.get_command(build()), current(arguments), obj=SettingsRegistry()
    )


def main() -> None:
    """Run `lorary` as it was typed, and end."""
    sys.exit(run(sys.argv[1:]))
