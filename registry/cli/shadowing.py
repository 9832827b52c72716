"""Commands for shadow traffic: a candidate also answers, and nobody gets its answers."""

from typing import Annotated, Any

import msgspec
import typer

from adapters.errors import InvalidName
from adapters.names import DEFAULT_ALIAS, AdapterRef
from registry.cli.output import AsJson, client, emit, say, table
from registry.model.comparisons import Comparison, summary
from registry.model.shadow import EndShadow, StartShadow

Alias = Annotated[str, typer.Argument(help="DOMAIN/ADAPTER[@ALIAS]")]


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    shadows = typer.Typer(
        no_args_is_help=True,
        help="Compare a candidate with what an alias names, on callers' requests.",
    )
    shadows.command("start")(start)
    shadows.command("stop")(stop)
    shadows.command("show")(show)
    app.add_typer(shadows, name="shadow")


def start(
    ref: Alias,
    candidate: Annotated[int, typer.Option(min=1, help="The version that also answers.")],
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Of the alias's requests: 0.1 is one in ten.")
    ] = 0.1,
    as_json: AsJson = False,
) -> None:
    """Have a candidate also answer a share of an alias's requests; nobody gets its answers.

    It ends when the alias moves, or one of the two versions is revoked or deleted.

    Example: lorary shadow start medical/icd10-coder@production --candidate 8 --share 0.1
    """
    domain, adapter, alias = _alias(ref)
    with client() as registry:
        shown = registry.execute(StartShadow(domain, adapter, alias, candidate, share))
    told = f"Version {candidate} also answers {100 * share:g} % of {domain}/{adapter}@{alias}"
    emit(shown, as_json, lambda: say(told))


def stop(ref: Alias, as_json: AsJson = False) -> None:
    """End an alias's shadow. What was seen of it stays.

    Example: lorary shadow stop medical/icd10-coder@production
    """
    domain, adapter, alias = _alias(ref)
    with client() as registry:
        shown = registry.execute(EndShadow(domain, adapter, alias))
    emit(shown, as_json, lambda: say(f"{domain}/{adapter}@{alias} has no shadow any more."))


def show(
    ref: Alias,
    every: Annotated[bool, typer.Option("--all", help="Also those that have ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what was seen of an alias's shadow: the running one, or else the last.

    Shares are shown with their exact 95 % interval.

    Example: lorary shadow show medical/icd10-coder@production
    """
    domain, adapter, alias = _alias(ref)
    with client() as registry:
        shadows = registry.adapter(f"{domain}/{adapter}")["shadows"]
    found = [shadow for shadow in shadows if shadow["alias"] == alias]
    shown = found if every else found[-1:]

    def tell() -> None:
        if not shown:
            say(f"{domain}/{adapter}@{alias} has had no shadow.")
        for shadow in shown:
            _tell(shadow)

    emit(shown, as_json, tell)


def _tell(shadow: dict[str, Any]) -> None:
    state = f"ended {shadow['ended']}: {shadow['reason']}" if shadow["ended"] else "running"
    say(
        f"Version {shadow['candidate']} beside version {shadow['stable']}, "
        f"{100 * shadow['share']:g} % of requests since {shadow['time']}, {state}; "
        f"replicas that report: {shadow['replicas']}"
    )
    table(["what", "seen"], list(summary(msgspec.convert(shadow["seen"], Comparison))))


def _alias(text: str) -> tuple[str, str, str]:
    """Domain, adapter and alias; raises `InvalidName` for anything else."""
    ref = AdapterRef.parse(text)
    if ref.adapter is None or ref.version is not None:
        raise InvalidName(f"{text[:80]!r} does not name an alias. Write DOMAIN/ADAPTER@ALIAS.")
    return ref.domain, ref.adapter, ref.alias or DEFAULT_ALIAS
