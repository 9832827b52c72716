"""What evaluation adds to the `lorary` command."""

import typer

from eval.cli import fleet, judging, matrix, suites, tasks


def register(app: typer.Typer) -> None:
    """Add this package's commands to `lorary`."""
    for part in (matrix, judging, fleet, suites, tasks):
        part.register(app)
