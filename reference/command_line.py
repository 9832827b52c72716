"""docs/reference/command-line.md: every `--help`, verbs and exit codes."""

from collections.abc import Iterator
from typing import Any

import typer
from typer.testing import CliRunner

from reference.markdown import code, table
from registry.cli import build
from registry.cli.help import EXIT_CODES, VERBS
from registry.cli.renamed import RENAMED

WIDTH = 80
"""Columns of the terminal that help is shown for."""


def commands(
    group: Any = None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group that help shows, each with the words that name it."""
    group = group or typer.main.get_command(build())
    for name, command in group.commands.items():
        if not command.hidden:
            yield (*path, name), command
            if hasattr(command, "commands"):
                yield from commands(command, (*path, name))


def help_of(app: typer.Typer, path: tuple[str, ...]) -> str:
    """What `lorary PATH --help` prints."""
    told = CliRunner().invoke(app, [*path, "--help"], prog_name="lorary", terminal_width=WIDTH)
    if told.exit_code:
        raise RuntimeError(told.output)
    return told.stdout.rstrip()


def _named(*words: str) -> str:
    return code(" ".join(("lorary", *words)))


def page() -> str:
    """The page."""
    app = build()
    every = [(), *(path for path, _ in commands())]
    helps = "\n".join(
        f"## lorary{''.join(f' {word}' for word in path)}\n\n```text\n{help_of(app, path)}\n```\n"
        for path in every
    )
    renamed = [(_named(*old), _named(*new)) for old, new in RENAMED.items()]
    renamed.append((_named("alias", "split"), f"{_named('canary', 'start')}, `canary stop`"))
    return f"""# Command line

Every command that prints takes `--json`. `lorary --install-completion` completes commands in your
shell. Progress is shown on standard error.

## Exit codes

{table(("code", "meaning"), EXIT_CODES.items())}
## Verbs

The second word of a command means the same in every group.

{table(("verb", "meaning"), [(code(verb), meaning) for verb, meaning in sorted(VERBS.items())])}
## Renamed commands

The old names still work.

{table(("old", "new"), renamed)}
{helps}"""
