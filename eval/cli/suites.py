"""`lorary suite`: lists evaluation suites, writes them as tasks, and begins a policy with them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.names import DEFAULT_ALIAS
from adapters.tasks import TaskFolder, read
from adapters.tasks.checking import usable
from adapters.tasks.scoring import Rubric
from adapters.terminal import working
from eval.cli.options import REVIEW_ITEMS
from eval.errors import UnknownSuite
from eval.pushed import newest, pushed_suite
from eval.suites import Suite
from registry.cli.output import AsJson, client, emit, say, table

Domain = Annotated[str, typer.Argument(help="The domain's name.")]
Tasks = Annotated[
    list[str],
    typer.Option(
        help="A task's folder, or TASK[@VERSION] of the domain's pushed ones, instead of the "
        "shipped suites; may be repeated."
    ),
]


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    suites = typer.Typer(
        no_args_is_help=True, help="List and write evaluation suites, and make a policy from them."
    )
    suites.command("ls")(list_suites)
    suites.command("write")(write_suites)
    suites.command("policy")(begin_policy)
    app.add_typer(suites, name="suite", rich_help_panel="Evaluate")


def list_suites(
    domain: Domain,
    task: Tasks = [],  # noqa: B006 - typer copies it
    as_json: AsJson = False,
) -> None:
    """List a domain's suites with the digests that a policy names.

    Example: lorary suite ls medical

    Example: lorary suite ls radiology --task radiology-modality
    """
    with working("building the suites", quiet=as_json):
        known = suites_from(domain, task)
    rows: list[dict[str, Any]] = [
        {
            "suite": suite.name,
            "digest": suite.digest,
            "held_out": suite.held_out,
            "items": sum(len(task.questions) for task in suite.tasks),
            "about": suite.about,
        }
        for suite in known
    ]
    columns = ["suite", "digest", "held_out", "items", "about"]
    shown = [
        [row["suite"], row["digest"][:12], row["held_out"][:12], row["items"], row["about"]]
        for row in rows
    ]
    emit(rows, as_json, lambda: table(columns, shown))


def write_suites(
    domain: Domain,
    out: Annotated[Path, typer.Argument(help="A folder, made if it is missing.")],
    task: Tasks = [],  # noqa: B006 - typer copies it
    as_json: AsJson = False,
) -> None:
    """Write a domain's suites as tasks of lm-evaluation-harness: YAML and JSON lines.

    Example: lorary suite write medical tasks && lm_eval --include_path tasks --tasks ...
    """
    with working("building the suites", quiet=as_json):
        for suite in suites_from(domain, task):
            suite.write(out)
    names = sorted(path.stem for path in out.glob("*.yaml"))
    emit({"folder": str(out), "tasks": names}, as_json, lambda: say("\n".join(names)))


def begin_policy(
    domain: Domain,
    task: Tasks = [],  # noqa: B006 - typer copies it
    n: Annotated[int | None, typer.Option(min=2, help="As for `lorary eval --n`.")] = None,
) -> None:
    """Print a policy that requires the domain's suites, to adapt and to set.

    Without --task those that Lorary ships; for a domain that it ships none for, the newest version
    of each pushed task.

    Example: lorary suite policy medical > policy.yaml && lorary domain policy medical policy.yaml

    Example: lorary suite policy radiology --task modality@2 > policy.yaml
    """
    import yaml

    with working("building the suites"):
        suites = [suite.limited(n) if n else suite for suite in suites_from(domain, task)]
    print(yaml.safe_dump(policy_for(suites), sort_keys=False), end="")


def suites_from(domain: str, tasks: Sequence[str]) -> list[Suite]:
    """The suites of `tasks`, each a task's folder or a pushed `TASK[@VERSION]` of the domain.

    Without tasks, the suites that Lorary ships for the domain; if it ships none, those of the
    newest version of each pushed task. Asks the registry only for pushed tasks.
    Raises `InvalidTask` for a folder that is not a usable task, `UnknownSuite` if there are no
    suites or two with one name, and the registry client's errors.
    """
    from eval.suites import suite_of, suites_of

    if not tasks and (shipped := shipped_suites(domain)):
        return shipped
    if tasks and all(Path(task).is_dir() for task in tasks):
        suites = [suite_of(usable_task(Path(task)), domain) for task in tasks]
    else:
        with client() as registry:
            suites = [
                suite_of(usable_task(Path(task)), domain)
                if Path(task).is_dir()
                else pushed_suite(registry, domain, task)
                for task in tasks or newest(registry, domain)
            ]
    if not suites:
        return list(suites_of(domain))  # raises UnknownSuite with the domains that have suites
    if len({suite.name for suite in suites}) < len(suites):
        raise UnknownSuite("Two tasks have the same name. Rename one of them in its task.yaml.")
    return suites


def usable_task(folder: Path) -> TaskFolder:
    """The task in a folder, if it has no problems that `lorary task check` reports.

    Raises `InvalidTask` with all of them.
    """
    task = read(folder)
    usable(task)
    return task


def shipped_suites(domain: str) -> list[Suite]:
    """The suites that Lorary ships for the domain; empty if it ships none."""
    from eval.suites import suites_of

    try:
        return list(suites_of(domain))
    except UnknownSuite:
        return []


def policy_for(suites: Sequence[Suite]) -> dict[str, Any]:
    """A policy that requires `suites`, as YAML is written from it.

    Its thresholds are meant to be adapted. Each suite's rule follows from what the suite measures.
    `alpha` and `looks` are written out though they are the defaults.
    """
    from eval.scoring import judged_by
    from registry.model.policies import Policy

    defaults = Policy()
    rules: list[dict[str, Any]] = []
    reviewed = 0
    for suite in suites:
        rule: dict[str, Any] = {
            "suite": suite.name,
            "digest": suite.digest,
            "held_out": suite.held_out,
            **({"task": suite.pushed} if suite.pushed else {}),
        }
        if suite.task("calibration"):
            rule |= {
                "floors": {"accuracy": 0.6, **({"permitted answer": 0.9} if suite.labels else {})},
                "margin": 0.05,
                "better_than_base": True,
                "confident_at": 0.9,
                "confident_errors": 0.2,
            }
        elif suite.task("validity"):
            rule |= {"floors": {"no invented code": 0.8}}
        elif task := suite.task("accuracy"):
            rule |= {"floors": {"accuracy": 0.6}} if task.harness else {"margin": 0.2}
        elif (task := suite.task("rubric")) and isinstance(task.scoring, Rubric):
            if task.scoring.judge == "model":
                rule |= {"floors": {judged_by(task.scoring): 0.6}}
            else:
                reviewed = max(reviewed, min(REVIEW_ITEMS, len(task.questions)))
        rules.append(rule)
    return {
        "guarded": [DEFAULT_ALIAS],
        "approvals": 2,
        "alpha": defaults.alpha,
        "looks": defaults.looks,
        "max_report_days": 90,
        "target_risk": 0.1,
        **({"reviewed_items": reviewed, "reviewed_correct": 0.6} if reviewed else {}),
        "suites": rules,
    }
