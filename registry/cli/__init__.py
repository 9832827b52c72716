"""The `lorary` command: the registry's own verbs, and what other packages add to them."""

import sys
from importlib.metadata import entry_points

import typer
from pydantic import ValidationError

from adapters.errors import LoraryError
from registry.cli import (
    commands,
    domains,
    events,
    evidence,
    governing,
    keeping,
    looking,
    publishing,
    reviewing,
    setup,
    shadowing,
    tasks,
)
from registry.cli.extras import explain
from registry.cli.handover import SettingsRegistry
from registry.cli.output import plain

COMMANDS = "lorary.commands"
"""Entry-point group; each entry is a function that takes the app and adds commands."""


def build() -> typer.Typer:
    """The whole application."""
    app = typer.Typer(
        name="lorary",
        help="A library of domain specialists: publish, serve and judge LoRA adapters.",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    for part in (
        setup,
        publishing,
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
    return app


def main() -> None:
    """Run `lorary`. Exit code 1 for whatever was refused or failed, 2 for wrong usage."""
    try:
        build()(obj=SettingsRegistry())
    except LoraryError as error:
        print(plain(f"lorary: {error.message}"), file=sys.stderr)
        sys.exit(1)
    except ValidationError as error:
        for problem in error.errors(include_input=False):
            setting = f"LORARY_{'_'.join(str(part) for part in problem['loc'])}".upper()
            print(f"lorary: {setting}: {problem['msg']}. See `lorary config`.", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (advice := explain(error)) is None:
            raise
        print(f"lorary: {advice}", file=sys.stderr)
        sys.exit(1)
