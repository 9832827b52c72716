"""Commands that show what is published and what happened: ls, show, log."""

from typing import Annotated, Any

import typer

from adapters.names import AdapterRef
from registry.audit import described
from registry.cli.choosing import key_names
from registry.cli.output import AsJson, client, emit, say, table


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    app.command("ls", rich_help_panel="Publish")(list_adapters)
    app.command(rich_help_panel="Publish")(show)
    app.command(rich_help_panel="Govern")(log)


def list_adapters(
    domain: Annotated[str | None, typer.Argument(help="Only this domain.")] = None,
    as_json: AsJson = False,
) -> None:
    """List adapters, their versions and aliases.

    Example: lorary ls medical
    """
    with client() as registry:
        adapters = registry.adapters(domain)
    rows = [
        [
            adapter["path"] + (" (default)" if adapter["default"] else ""),
            adapter["version_count"],
            ", ".join(
                f"{alias} -> {number}" + (" (NOT SERVED)" if alias in adapter["outages"] else "")
                for alias, number in adapter["aliases"].items()
            ),
        ]
        for adapter in adapters
    ]
    emit(adapters, as_json, lambda: table(["adapter", "versions", "aliases"], rows))


def show(
    ref: Annotated[str, typer.Argument(help="DOMAIN[/ADAPTER[@VERSION|@ALIAS]]")],
    as_json: AsJson = False,
) -> None:
    """Show a version: files, base model, approvals, evaluations and feedback.

    Example: lorary show medical/icd10-coder@production
    """
    with client() as registry:
        version = registry.resolve(str(AdapterRef.parse(ref)))
    emit(version, as_json, lambda: _show_version(version))


def log(
    after: Annotated[int, typer.Option(min=0, help="Only commits after this one.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Print the audit log, oldest entry first.

    Example: lorary log --after 40
    """
    with client() as registry:
        commits = list(registry.log(after))
        names = {} if as_json else key_names(registry)
    rows = [
        [
            commit["sequence"],
            commit["time"],
            names.get(entry["actor"], entry["actor"]),
            _summary(entry["event"]),
        ]
        for commit in commits
        for entry in commit["entries"]
    ]
    emit(commits, as_json, lambda: table(["commit", "time", "actor", "event"], rows))


def _show_version(version: dict[str, Any]) -> None:
    facts = version["facts"]
    say(f"{version['ref']}  {version['digest']}")
    say(f"  base       {version['base']}")
    say(f"  published  {version['published']} by {version['publisher']}")
    for number, line in enumerate(version["message"].splitlines()):
        say(f"  {'' if number else 'message':9}  {line}".rstrip())
    say(f"  LoRA       rank {facts['rank']}, alpha {facts['alpha']:g}, "
        f"{facts['parameters']:,} parameters in {', '.join(facts['target_modules'])}")  # fmt: skip
    if head := facts.get("head"):
        told = ", ".join(head["labels"]) or "one score"
        say(f"  head       {head['size']} {'label' if head['size'] == 1 else 'labels'}: {told}")
    if version["approvers"]:
        given = zip(version["approvers"], version["approved"], strict=True)
        for who, approval in given:
            said = f": {approval['statement']}" if approval["statement"] else ""
            say(f"  approved   {approval['time']} by {who}{said}")
    if version["evaluations"]:
        last = version["evaluations"][-1]
        times = len(version["evaluations"])
        say(f"  evaluated  {times} time(s), last {last['time']} by {last['evaluator']}")
    if version["revoked"]:
        say(f"  REVOKED    {version['revoked_at']}: {version['revoked']}")
    feedback = version["feedback"]
    if feedback["positive"] or feedback["negative"]:
        kinds = [f"{count} {kind}" for kind, count in sorted(feedback["categories"].items())]
        named = f" ({', '.join(kinds)})" if kinds else ""
        say(f"  feedback   {feedback['positive']} positive, {feedback['negative']} negative{named}")
    table(
        ["  file", "bytes", "sha256"],
        [["  " + f["path"], f["size"], f["sha256"][:16]] for f in version["files"]],
    )


def _summary(event: dict[str, Any]) -> str:
    """An event in one line."""
    fields = (f"{name}={text}" for name, text in described(event))
    return f"{event['type']} {' '.join(fields)}"
