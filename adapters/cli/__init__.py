"""What this package adds to `lorary`: from nothing to an adapter on disk, whatever its method."""

import typer

from adapters.cli import converting, sources, tasks, training


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    for part in (sources, tasks, training, converting):
        part.register(app)
