"""Commands for canaries: a share of an alias's callers gets a candidate version."""

from typing import Annotated, Any

import typer

from adapters.names import AdapterRef
from registry.cli.output import AliasRef, AsJson, alias_of, client, emit, say, table
from registry.errors import BadRequest
from registry.model.canary import SplitAlias
from registry.model.trials import Bounds

Percent = Annotated[int, typer.Option(min=0, max=99, help="Percent of callers; 0 stops it.")]
ErrorRate = Annotated[float, typer.Option(help="Highest share of failed requests; 1: no limit.")]
LatencyRatio = Annotated[
    float, typer.Option(help="Highest 95th percentile latency, as a multiple of the other's.")
]
NegativeShare = Annotated[
    float, typer.Option(help="Highest share of negative feedback; 1: no limit.")
]
MinRequests = Annotated[
    int, typer.Option(min=1, help="Requests before error rate and latency count.")
]
MinAskers = Annotated[
    int,
    typer.Option(
        min=1, help="People whose keys must give feedback; 1 where one key serves all users."
    ),
]
NoRollback = Annotated[
    bool, typer.Option("--no-rollback", help="Set no limits: only people stop it.")
]


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    canaries = typer.Typer(
        no_args_is_help=True, help="Send a share of an alias's callers to a candidate version."
    )
    canaries.command("start")(start)
    canaries.command("stop")(stop)
    canaries.command("show")(show)
    app.add_typer(canaries, name="canary", rich_help_panel="Release")
    for group in app.registered_groups:
        if group.name == "alias" and group.typer_instance is not None:
            group.typer_instance.command("split", hidden=True)(split_alias)


def start(
    ref: AliasRef,
    candidate: Annotated[int, typer.Option(min=1, help="The candidate's version number.")],
    percent: Annotated[int, typer.Option(min=1, max=99, help="Percent of callers.")] = 5,
    max_error_rate: ErrorRate = 0.05,
    max_latency_ratio: LatencyRatio = 2.0,
    max_negative_share: NegativeShare = 0.5,
    min_requests: MinRequests = 50,
    min_askers: MinAskers = 2,
    no_rollback: NoRollback = False,
    as_json: AsJson = False,
) -> None:
    """Send a share of an alias's callers to a candidate. Each caller stays with its version.

    The canary is rolled back automatically when the candidate exceeds a limit.

    Example: lorary canary start medical/icd10-coder@production --candidate 8 --percent 5
    """
    domain, adapter, alias = alias_of(ref)
    bounds = _bounds(
        max_error_rate, max_latency_ratio, max_negative_share, min_requests, min_askers
    )
    with client() as registry:
        shown = registry.execute(
            SplitAlias(domain, adapter, alias, candidate, percent, None if no_rollback else bounds)
        )
    done = f"{percent} % of the callers of {domain}/{adapter}@{alias} get version {candidate}."
    emit(shown, as_json, lambda: say(done))


def stop(ref: AliasRef, as_json: AsJson = False) -> None:
    """Stop an alias's canary: all callers get the version that the alias points to.

    Example: lorary canary stop medical/icd10-coder@production
    """
    domain, adapter, alias = alias_of(ref)
    path = f"{domain}/{adapter}"
    with client() as registry:
        running = registry.adapter(path)["splits"].get(alias)
        if running is None:
            raise BadRequest(f"{path}@{alias} has no canary. See: lorary alias ls {path}")
        shown = registry.execute(SplitAlias(domain, adapter, alias, running["candidate"], 0))
    emit(shown, as_json, lambda: say(f"The canary of {path}@{alias} is stopped."))


def show(ref: AliasRef, as_json: AsJson = False) -> None:
    """Show an alias's running canary and earlier rollbacks.

    Example: lorary canary show medical/icd10-coder@production
    """
    domain, adapter, alias = alias_of(ref)
    with client() as registry:
        seen = registry.adapter(f"{domain}/{adapter}")
    running = seen["splits"].get(alias)
    rollbacks = [one for one in seen["rollbacks"] if one["alias"] == alias]

    def tell() -> None:
        if running is None:
            say(f"{domain}/{adapter}@{alias} has no canary.")
        else:
            _show_running(running)
        rows = [[one["time"], one["candidate"], one["seen"], one["actor"]] for one in rollbacks]
        if rows:
            table(["rolled back", "version", "why", "reported by"], rows)

    emit({"running": running, "rollbacks": rollbacks}, as_json, tell)


def _show_running(running: dict[str, Any]) -> None:
    say(f"{running['percent']} % of callers get version {running['candidate']}.")
    limits = [f"{name}={value}" for name, value in (running["bounds"] or {}).items()]
    say(f"Limits for its rollback: {', '.join(limits) or 'none'}")


def _bounds(
    max_error_rate: float,
    max_latency_ratio: float,
    max_negative_share: float,
    min_requests: int,
    min_askers: int,
) -> Bounds:
    return Bounds(
        max_error_rate=max_error_rate,
        max_latency_ratio=max_latency_ratio,
        max_negative_share=max_negative_share,
        min_requests=min_requests,
        min_askers=min_askers,
    )


def split_alias(
    ref: Annotated[str, typer.Argument(help="DOMAIN/ADAPTER@VERSION: the candidate.")],
    alias: Annotated[str, typer.Argument(help="The alias whose callers it gets.")],
    percent: Percent,
    max_error_rate: ErrorRate = 0.05,
    max_latency_ratio: LatencyRatio = 2.0,
    max_negative_share: NegativeShare = 0.5,
    min_requests: MinRequests = 50,
    min_askers: MinAskers = 2,
    no_rollback: NoRollback = False,
    as_json: AsJson = False,
) -> None:
    """Start or stop a canary: the earlier form of `lorary canary`.

    Example: lorary alias split medical/icd10-coder@8 production --percent 5
    """
    bounds = _bounds(
        max_error_rate, max_latency_ratio, max_negative_share, min_requests, min_askers
    )
    domain, adapter, candidate = AdapterRef.parse_version(ref)
    with client() as registry:
        shown = registry.execute(
            SplitAlias(domain, adapter, alias, candidate, percent, None if no_rollback else bounds)
        )
    path = f"{domain}/{adapter}@{alias}"
    done = f"{percent} % of {path} gets {ref}" if percent else f"The canary of {path} is stopped."
    emit(shown, as_json, lambda: say(done))
