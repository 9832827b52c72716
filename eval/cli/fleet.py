"""Qualifying what serves: every promoted version on the engine of one server."""

import sys
from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer

from adapters.errors import LoraryError
from eval.cli import judging
from eval.cli.options import API_URL, Url
from eval.errors import NotServed
from registry.cli.output import AsJson, client, emit, say, table, warn
from registry.client import RegistryClient
from registry.errors import BadRequest
from registry.model.evidence import Engine
from registry.model.suite_rules import described

RECORDED, QUALIFIED, ELSEWHERE, FAILED = "recorded", "qualified before", "not served here", "failed"
"""What came of a version."""


def register(app: typer.Typer) -> None:
    """Add `lorary domain engine`."""
    for group in app.registered_groups:
        if group.name == "domain" and group.typer_instance is not None:
            group.typer_instance.command("engine")(set_engine)


def set_engine(
    domain: Annotated[str, typer.Argument(help="The domain's name.")],
    url: Url = API_URL,
    base: Annotated[
        str | None, typer.Option(help="A base model that the server runs; by default the only one.")
    ] = None,
    add: Annotated[
        bool, typer.Option("--add", help="Beside the policy's other engines of that base model.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Replace an engine without asking.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put the engine of a running server into a domain's policy: evidence must be from there.

    Afterwards versions that were evaluated elsewhere must be evaluated again before they are
    promoted, and `lorary gate` says so. What is in production stays; `lorary eval --all-promoted`
    evaluates all of it on the new engine, before or after.

    Example: lorary domain engine medical --url http://127.0.0.1:8000/v1
    """
    from eval.served import engine_of
    from registry.settings import ClientSettings

    with client() as registry:
        bases = {one["name"]: one["digest"] for one in registry.bases()}
        name = base or (next(iter(bases)) if len(bases) == 1 else "")
        if not bases:
            raise BadRequest("No base model is registered. Register one: lorary base add DIRECTORY")
        if name not in bases:
            raise BadRequest(f"Name one of the base models: --base {' | --base '.join(bases)}")
        engine = engine_of(url, ClientSettings().key.get_secret_value(), name)
        policy = registry.domain(domain)["policy"]
        old = msgspec.convert(policy["engines"], tuple[Engine, ...])
        kept = [
            e for e in old if e.differences(engine) and (add or e.base not in ("", bases[name]))
        ]
        gone = [e for e in old if e not in kept and e.differences(engine)]
        for one in gone:
            names = ", ".join(one.differences(engine))
            warn(f"no longer: {described(one)}, which differs in {names}")
        if gone and not yes and not (sys.stdin.isatty() and typer.confirm("Replace it?")):
            raise BadRequest("Nothing was changed. Confirm with --yes, or keep both with --add.")
        changes = {"engines": msgspec.to_builtins([*kept, engine])}
        shown = registry.change_policy(domain, changes, weaken=True)
    message = f"{domain} takes evidence from {described(engine)}."
    emit(shown, as_json, lambda: say(message))


def qualify_promoted(domain: str, how: judging.Options) -> None:
    """Evaluate every version that a guarded alias names, on the engine of one server.

    Versions that were evaluated there before by the same suites are skipped unless `how.fresh`.
    One that fails does not stop the others; the command can be run again and goes on. Exit code 1
    if one failed.
    """
    if "/" in domain or "@" in domain:
        raise BadRequest(f"--all-promoted takes a domain or nothing, not {domain!r}.")
    if how.out is not None or not how.record:
        raise BadRequest("--all-promoted records evaluations. Leave --out and --no-record out.")
    outcomes = []
    with client() as registry:
        refs = list(promoted(registry, domain))
        for place, ref in enumerate(refs, start=1):
            if not how.quiet:
                warn(f"{place} of {len(refs)}: {ref}")
            try:
                state = _qualify(registry, ref, how)
                outcomes.append({"ref": ref, "outcome": state, "error": ""})
            except LoraryError as error:
                outcomes.append({"ref": ref, "outcome": FAILED, "error": error.message})
    rows: list[list[object]] = [[o["ref"], o["outcome"], o["error"]] for o in outcomes]
    if outcomes:
        emit(outcomes, how.quiet, lambda: table(["version", "outcome", "error"], rows))
    else:
        emit(outcomes, how.quiet, lambda: say("No guarded alias names a version."))
    if any(outcome["outcome"] == FAILED for outcome in outcomes):
        raise typer.Exit(1)


def promoted(registry: RegistryClient, domain: str = "") -> Iterator[str]:
    """Every version that a guarded alias of the domain, or of any domain, names and that is not
    revoked; each once."""
    for one in registry.domains():
        if domain not in ("", one["name"]):
            continue
        guarded = set(one["policy"]["guarded"])
        for adapter in registry.adapters(one["name"]):
            down = adapter["outages"]
            numbers = {
                number
                for alias, number in adapter["aliases"].items()
                if alias in guarded and alias not in down
            }
            yield from (f"{adapter['path']}@{number}" for number in sorted(numbers))


def _qualify(registry: RegistryClient, ref: str, how: judging.Options) -> str:
    """What came of one version."""
    try:
        asked = judging.prepare(registry, ref, how)
    except NotServed:
        return ELSEWHERE
    if not how.fresh and asked.is_recorded:
        return QUALIFIED
    judging.judge(registry, asked, how)
    return RECORDED
