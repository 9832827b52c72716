"""`lorary serve`: one replica."""

from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add this package's commands to `lorary`."""
    settings = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(context_settings=settings)(serve)


def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Serve every published adapter from one vLLM, behind the gate. Settings: lorary config

    What follows `--` goes to vLLM, except options that would open a way around the gate.

    Example: lorary serve --port 8000 -- --max-num-seqs 32
    """
    from serving.launch import run
    from serving.settings import ServingSettings

    given: dict[str, Any] = {"host": host, "port": port}
    settings = ServingSettings(**{name: value for name, value in given.items() if value})
    run(settings, [argument for argument in context.args if argument != "--"])
