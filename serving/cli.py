"""`lorary serve`: one replica. `lorary plan`: how many of them."""

from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add this package's commands to `lorary`."""
    settings = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(context_settings=settings, rich_help_panel="Serve")(serve)
    app.command(rich_help_panel="Serve")(plan)


def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the chosen settings and why; start nothing.")
    ] = False,
    gpu: Annotated[
        str | None,
        typer.Option(help="With --plan: for another GPU than this machine's, such as h100x2."),
    ] = None,
    host_gib: Annotated[
        int | None, typer.Option(min=1, help="With --gpu: that machine's host memory, GiB.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --plan: print JSON.")] = False,
    task: Annotated[
        str | None,
        typer.Option(help="generate, or classify: adapters with a classification head."),
    ] = None,
) -> None:
    """Serve every published adapter from one vLLM server. Settings: `lorary config`.

    On a GPU, unset settings are chosen for the device and the model: see --plan. Arguments after
    `--` go to vLLM. Options that would bypass the gateway, or make it count adapters differently
    than the engine, are refused with what to use instead.

    Example: lorary serve --port 8000 -- --max-num-seqs 32

    Example: lorary serve --task classify --port 8001
    """
    from serving.launch import run
    from serving.settings import ServingSettings

    if gpu and not plan:
        raise typer.BadParameter("--gpu goes with --plan: it starts nothing.")
    if host_gib and not gpu:
        raise typer.BadParameter("--host-gib goes with --gpu: without it this machine is read.")
    given: dict[str, Any] = {"host": host, "port": port, "task": task}
    settings = ServingSettings(**{name: value for name, value in given.items() if value})
    extra = [argument for argument in context.args if argument != "--"]
    if plan:
        _show_plan(settings, extra, gpu, host_gib, as_json)
    else:
        run(settings, extra)


def _show_plan(
    settings: Any, extra: list[str], gpu: str | None, host_gib: int | None, as_json: bool
) -> None:
    """Print what `lorary serve` would start with; exits with 1 if it could not."""
    from serving import sizing
    from serving.launch import require_model
    from serving.options import check_options
    from serving.plan_report import as_value, show

    require_model(settings)
    check_options(extra, settings.task)
    machine = sizing.machine_named(gpu, host_gib) if gpu else sizing.read_machine()
    made = sizing.plan_for(settings, extra, machine)
    problems = made.problems if gpu else sizing.problems(made, sizing.requested_of(settings, extra))
    from registry.cli.output import emit

    value = {"model": settings.model, **as_value(made, problems)}
    emit(value, as_json, lambda: show(settings.model, made, problems))
    if problems:
        raise typer.Exit(1)


def plan(
    curve: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="What one replica was measured to do.")
    ],
    adapters: Annotated[int, typer.Option(min=1, help="How many are to be served.")],
    per_second: Annotated[float, typer.Option(min=0.001, help="Requests, at the busiest.")],
    tokens: Annotated[int, typer.Option(min=1, help="Made for each request.")] = 128,
    rank: Annotated[int, typer.Option(min=1, help="Of the adapters.")] = 16,
    skew: Annotated[float, typer.Option(min=0, max=3, help="Zipf exponent of who is asked.")] = 1.0,
    first_seconds: Annotated[
        float, typer.Option(min=0.001, help="To the first token, 99th percentile.")
    ] = 2.0,
    resident: Annotated[
        float,
        typer.Option(min=0.01, max=1, help="Share of requests that shall not wait for a load."),
    ] = 0.99,
    headroom: Annotated[float, typer.Option(min=0, max=0.9, help="Capacity left unused.")] = 0.3,
    price: Annotated[float, typer.Option(min=0, help="Of one replica for an hour.")] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Plan capacity: replicas, adapter slots and memory for a load, from a measured curve.

    Example: lorary plan --curve docs/curves/cpu-one-core.json --adapters 1000 --per-second 2
    """
    import msgspec

    from registry.cli.output import emit, say
    from serving import planning

    measured = planning.parse(curve.read_bytes())
    made = planning.plan(
        measured,
        planning.Load(
            adapters=adapters,
            per_second=per_second,
            tokens=tokens,
            rank=rank,
            skew=skew,
            first_seconds=first_seconds,
            resident=resident,
            headroom=headroom,
            price=price,
        ),
    )

    def show() -> None:
        say(f"by {measured.model} on {measured.hardware}, {measured.tokens} tokens a request")
        say(f"  replicas          {made.replicas}, each with up to {made.at_once} requests at once")
        say(f"  LORARY_MAX_LORAS      {made.slots}")
        say(
            f"  LORARY_MAX_CPU_LORAS  {made.memory_adapters}  ({made.memory_gib:.2f} GiB of memory)"
        )
        say(f"  LORARY_CACHE_BYTES    {made.disk_gib:.2f} GiB for all that a replica is asked for")
        say(f"  bucket            {made.bucket_gib:.2f} GiB for one version of each")
        say(
            f"  in memory         {made.resident:.1%} of requests; the others wait "
            f"{made.cold_seconds:.2f} s more"
        )
        if price:
            say(
                f"  cost              {made.price_per_hour:.2f} an hour, "
                f"{made.per_million_tokens:.2f} a million tokens"
            )

    emit(msgspec.to_builtins(made), as_json, show)
