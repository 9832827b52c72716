"""Commands for shadow traffic: a candidate also answers, and its answers are discarded."""

from typing import Annotated, Any

import msgspec
import typer

from registry.cli.output import AliasRef, AsJson, alias_of, client, emit, say, table
from registry.model.comparisons import Comparison, summary
from registry.model.shadow import EndShadow, StartShadow


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    shadows = typer.Typer(
        no_args_is_help=True,
        help="Compare a candidate with production on copies of requests.",
    )
    shadows.command("start")(start)
    shadows.command("stop")(stop)
    shadows.command("show")(show)
    app.add_typer(shadows, name="shadow", rich_help_panel="Release")


def start(
    ref: AliasRef,
    candidate: Annotated[int, typer.Option(min=1, help="The version that also answers.")],
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Of the alias's requests: 0.1 is one in ten.")
    ] = 0.1,
    as_json: AsJson = False,
) -> None:
    """Send copies of a share of an alias's requests to a candidate. Its answers are discarded.

    Stops when the alias moves, or when either version is revoked or deleted.

    Example: lorary shadow start medical/icd10-coder@production --candidate 8 --share 0.1
    """
    domain, adapter, alias = alias_of(ref)
    with client() as registry:
        shown = registry.execute(StartShadow(domain, adapter, alias, candidate, share))
    done = f"Version {candidate} also answers {100 * share:g} % of {domain}/{adapter}@{alias}"
    emit(shown, as_json, lambda: say(done))


def stop(ref: AliasRef, as_json: AsJson = False) -> None:
    """Stop an alias's shadow traffic. Its results stay.

    Example: lorary shadow stop medical/icd10-coder@production
    """
    domain, adapter, alias = alias_of(ref)
    with client() as registry:
        shown = registry.execute(EndShadow(domain, adapter, alias))
    emit(shown, as_json, lambda: say(f"{domain}/{adapter}@{alias} has no shadow traffic now."))


def show(
    ref: AliasRef,
    every: Annotated[bool, typer.Option("--all", help="Also those that have ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how a candidate compared: the running shadow, or else the last.

    Shares are shown with their exact 95 % interval.

    Example: lorary shadow show medical/icd10-coder@production
    """
    domain, adapter, alias = alias_of(ref)
    with client() as registry:
        shadows = registry.adapter(f"{domain}/{adapter}")["shadows"]
    found = [shadow for shadow in shadows if shadow["alias"] == alias]
    shown = found if every else found[-1:]

    def print_all() -> None:
        if not shown:
            say(f"{domain}/{adapter}@{alias} has had no shadow traffic.")
        for shadow in shown:
            _print(shadow)

    emit(shown, as_json, print_all)


def _print(shadow: dict[str, Any]) -> None:
    state = f"ended {shadow['ended']}: {shadow['reason']}" if shadow["ended"] else "running"
    say(
        f"Version {shadow['candidate']} beside version {shadow['stable']}, "
        f"{100 * shadow['share']:g} % of requests since {shadow['time']}, {state}; "
        f"replicas that report: {shadow['replicas']}"
    )
    table(["measure", "result"], list(summary(msgspec.convert(shadow["seen"], Comparison))))
