"""`lorary suites`: what versions are asked, as tasks and as a policy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.names import DEFAULT_ALIAS
from eval.suites import Suite
from registry.cli.output import AsJson, emit, say, table


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    suites = typer.Typer(
        no_args_is_help=True, help="List and write evaluation suites; make a policy of them."
    )
    suites.command("ls")(list_suites)
    suites.command("write")(write_suites)
    suites.command("policy")(begin_policy)
    app.add_typer(suites, name="suites")


def list_suites(
    domain: Annotated[str, typer.Argument(help="A domain that has a pack.")],
    as_json: AsJson = False,
) -> None:
    """List a domain's suites with the digests that a policy names.

    Example: lorary suites ls medical
    """
    from eval.suites import suites_of

    rows: list[dict[str, Any]] = [
        {
            "suite": suite.name,
            "digest": suite.digest,
            "held_out": suite.held_out,
            "items": sum(len(task.questions) for task in suite.tasks),
            "about": suite.about,
        }
        for suite in suites_of(domain)
    ]
    columns = ["suite", "digest", "held_out", "items", "about"]
    shown = [
        [row["suite"], row["digest"][:12], row["held_out"][:12], row["items"], row["about"]]
        for row in rows
    ]
    emit(rows, as_json, lambda: table(columns, shown))


def write_suites(
    domain: Annotated[str, typer.Argument(help="A domain that has a pack.")],
    out: Annotated[Path, typer.Argument(help="A folder, made if it is missing.")],
    as_json: AsJson = False,
) -> None:
    """Write a domain's suites as tasks of lm-evaluation-harness: YAML and JSON lines.

    Example: lorary suites write medical tasks && lm_eval --include_path tasks --tasks ...
    """
    from eval.suites import suites_of

    for suite in suites_of(domain):
        suite.write(out)
    names = sorted(path.stem for path in out.glob("*.yaml"))
    emit({"folder": str(out), "tasks": names}, as_json, lambda: say("\n".join(names)))


def begin_policy(
    domain: Annotated[str, typer.Argument(help="A domain that has a pack.")],
    n: Annotated[int | None, typer.Option(min=2, help="As for `lorary eval --n`.")] = None,
) -> None:
    """Print a policy that requires the domain's suites, to adapt and to set.

    Example: lorary suites policy medical > policy.yaml && lorary domain policy medical policy.yaml
    """
    import yaml

    from eval.suites import suites_of

    suites = [suite.limited(n) if n else suite for suite in suites_of(domain)]
    print(yaml.safe_dump(policy_for(suites), sort_keys=False), end="")


def policy_for(suites: Sequence[Suite]) -> dict[str, Any]:
    """A policy that requires `suites`, with rules to begin from."""
    rules: list[dict[str, Any]] = []
    for suite in suites:
        rule: dict[str, Any] = {
            "suite": suite.name,
            "digest": suite.digest,
            "held_out": suite.held_out,
        }
        if suite.task("calibration"):
            rule |= {
                "floors": {"accuracy": 0.6, "permitted answer": 0.9},
                "margin": 0.05,
                "better_than_base": True,
                "confident_at": 0.9,
                "confident_errors": 0.2,
            }
        elif suite.task("validity"):
            rule |= {"floors": {"no invented code": 0.8}}
        elif suite.task("accuracy"):
            rule |= {"margin": 0.2}
        rules.append(rule)
    return {
        "guarded": [DEFAULT_ALIAS],
        "approvals": 2,
        "alpha": 0.05,
        "looks": 10,
        "max_report_days": 90,
        "target_risk": 0.1,
        "suites": rules,
    }
