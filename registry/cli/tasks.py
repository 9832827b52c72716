"""Commands about tasks that were pushed: list, show, fetch, retire."""

from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.cli import tasks as folders
from registry.cli.output import AsJson, client, emit, progress_bar, say, table
from registry.client.tasks import task_ref
from registry.errors import BadRequest
from registry.model.tasks import RetireTask

Ref = Annotated[str, typer.Argument(help="DOMAIN/TASK[@VERSION]; by default the newest.")]


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary task`."""
    group = folders.group_of(app)
    group.command("ls")(list_tasks)
    group.command("show")(show)
    group.command("pull")(pull)
    group.command("retire")(retire)


def list_tasks(
    domain: Annotated[str, typer.Argument(help="The domain's name.")], as_json: AsJson = False
) -> None:
    """List a domain's tasks that were pushed, with their newest versions.

    Example: lorary task ls radiology
    """
    with client() as registry:
        tasks = registry.tasks(domain)
        named = {rule["task"] for rule in registry.domain(domain)["policy"]["suites"]}
    rows = [
        [
            _named(version),
            version["about"],
            version["items"],
            version["licence"],
            version["published"][:10],
            _state(version, named),
        ]
        for task in tasks
        for version in reversed(task["versions"])
    ]
    columns = ["task", "about", "questions", "licence", "pushed", "state"]
    emit(tasks, as_json, lambda: table(columns, rows))


def _named(version: dict[str, Any]) -> str:
    """As rules of the policy name it."""
    return f"{version['task']}@{version['version']}"


def _state(version: dict[str, Any], named: set[str]) -> str:
    if version["retired"] is not None:
        return f"retired: {version['retired']}"
    return "in the policy" if _named(version) in named else ""


def show(
    task: Annotated[str, typer.Argument(help="A task's folder, or DOMAIN/TASK[@VERSION].")],
    as_json: AsJson = False,
) -> None:
    """Show what a task's folder asks, or a version that was pushed: its digests, files and suites.

    Example: lorary task show radiology-modality

    Example: lorary task show radiology/modality@2
    """
    if Path(task).is_dir():
        folders.show(Path(task), as_json=as_json)
        return
    with client() as registry:
        version = registry.task(task)
    emit(version, as_json, lambda: _show(version))


def _show(version: dict[str, Any]) -> None:
    say(f"{version['ref']}  {version['digest']}")
    say(f"  asks      {version['about']}")
    say(f"  licence   {version['licence']}")
    say(f"  pushed    {version['published']} by {version['publisher']}")
    if version["message"]:
        say(f"  message   {version['message']}")
    if version["retired"] is not None:
        say(f"  RETIRED   {version['retired']}")
    table(
        ["  suite", "questions", "digest", "held-out items"],
        [
            ["  " + s["suite"], s["items"], s["digest"][:16], s["held_out"][:16]]
            for s in version["suites"]
        ],
    )
    table(
        ["  file", "bytes", "sha256"],
        [
            ["  " + f["path"], f["size"], f.get("sha256", "(for evaluators)")[:16]]
            for f in version["files"]
        ],
    )


def pull(
    ref: Ref,
    folder: Annotated[Path, typer.Argument(help="Where to put the files.")],
    as_json: AsJson = False,
) -> None:
    """Download a task that was pushed, every file verified. The key needs the role evaluate.

    Example: lorary task pull radiology/modality@2 modality
    """
    with client() as registry, progress_bar(quiet=as_json, transfer=True) as progress:
        version = registry.pull_task(ref, folder, progress=progress)
    emit(version, as_json, lambda: say(f"{version['ref']} is in {folder}"))


def retire(
    ref: Annotated[str, typer.Argument(help="DOMAIN/TASK@VERSION")],
    reason: Annotated[str, typer.Option(help="Why; shown to everyone who requests it.")],
    as_json: AsJson = False,
) -> None:
    """Retire a version that no policy names; `lorary gc --apply` then removes its files.

    Example: lorary task retire radiology/modality@1 --reason "two items had the wrong answer"
    """
    domain, task, number = task_ref(ref)
    if number is None:
        raise BadRequest(f"{ref} has no version. Write DOMAIN/TASK@VERSION.")
    with client() as registry:
        version = registry.execute(RetireTask(domain, task, number, reason))
    emit(version, as_json, lambda: say(f"{ref} is retired."))
