"""`lorary task push`: from a task's folder to a version in the registry."""

from typing import Annotated, Any

import typer

from adapters.cli.tasks import Folder, group_of
from eval.errors import TaskDiffers, UnknownSuite
from registry.cli.output import AsJson, client, emit, progress_bar, say


def register(app: typer.Typer) -> None:
    """Add this command to `lorary task`."""
    group_of(app).command("push")(push)


def push(
    folder: Folder,
    domain: Annotated[
        str | None, typer.Argument(help="The domain; by default the one that task.yaml names.")
    ] = None,
    message: Annotated[str, typer.Option(help="What changed, and why.")] = "",
    expected: Annotated[
        int | None, typer.Option(help="Only if this is the newest version now (0: none).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Publish a task as its domain's next version. The key needs the role evaluate.

    It counts once the domain's policy names it. Repeating a push is safe.

    Example: lorary task push radiology-modality radiology --message "items of two more hospitals"
    """
    from adapters.tasks import read
    from adapters.tasks.checking import usable
    from eval.pushed import described
    from eval.suites import suite_of

    task = read(folder)
    usable(task)
    name = task.spec.name
    if not (domain := domain or task.spec.domain):
        raise UnknownSuite(f"{folder} has no domain. Write: lorary task push {folder} DOMAIN")
    suite = described(suite_of(task, domain))
    files = {file.path: folder / file.path for file in task.files}
    with client() as registry, progress_bar(quiet=as_json, transfer=True) as progress:
        version: dict[str, Any] = registry.push_task(
            files,
            f"{domain}/{name}",
            [suite],
            message=message,
            expected=expected,
            progress=progress,
        )
    if version["digest"] != task.digest:
        raise TaskDiffers(f"{folder} was changed while it was pushed as {version['ref']}. Repeat.")
    pushed = f"{name}@{version['version']}"
    emit(
        version,
        as_json,
        lambda: say(
            f"{version['ref']}  {version['digest']}, {version['items']} questions\n"
            f"For a policy that requires it: lorary suite policy {domain} --task {pushed}"
        ),
    )
