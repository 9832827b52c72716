"""`lorary task new`, `check`, `show`: a task's folder on this machine."""

import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from adapters.errors import LoraryError
from adapters.options import AsJson
from adapters.tasks import InvalidTask, TaskFolder, read
from adapters.tasks.checking import SIDES, Checked, check
from adapters.tasks.folder import CARD, ITEMS, RECIPE, SPEC
from adapters.terminal import plain

GROUP = "task"
Folder = Annotated[Path, typer.Argument(help="A folder with task.yaml, items.jsonl, card.md.")]
SHOWN = 3
"""Items that are shown."""


class FolderExists(LoraryError):
    """A folder that would be overwritten."""

    status = 409
    code = "folder_exists"


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary task`."""
    group = group_of(app)
    group.command("new")(new)
    group.command("check")(check_folder)


def group_of(app: typer.Typer) -> typer.Typer:
    """The commands `lorary task ...`, made unless they are there: other packages add to them."""
    for known in app.registered_groups:
        if known.name == GROUP and known.typer_instance is not None:
            return known.typer_instance
    group = typer.Typer(
        no_args_is_help=True,
        help="Write and check tasks, for evaluation and training.",
    )
    app.add_typer(group, name=GROUP, rich_help_panel="Evaluate")
    return group


def new(
    folder: Annotated[Path, typer.Argument(help="Where to put it; must not exist, or be empty.")],
    as_json: AsJson = False,
) -> None:
    """Write the folder of a small task, with comments, to be changed into your own.

    Example: lorary task new radiology-modality
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FolderExists(f"{folder} exists. Choose another place.")
    folder.mkdir(parents=True, exist_ok=True)
    template = files("adapters.tasks").joinpath("template")
    written = [SPEC, ITEMS, CARD, RECIPE]
    for name in written:
        (folder / name).write_bytes(template.joinpath(name).read_bytes())
    if as_json:
        print(json.dumps({"folder": str(folder), "files": written}))
        return
    print(f"{folder}: {', '.join(written)}. Change them, then: lorary task check {folder}")


def check_folder(folder: Folder, as_json: AsJson = False) -> None:
    """Check a task's folder: every problem with file and line, counts, and what training shows.

    Exit code 1 if there is a problem. Remarks are for you to judge.

    Example: lorary task check radiology-modality
    """
    try:
        task = read(folder)
    except InvalidTask as error:
        if not as_json:
            raise
        print(json.dumps({"problems": [str(problem) for problem in error.problems]}, indent=2))
        sys.exit(1)
    found = check(task)
    if as_json:
        print(json.dumps({**_described(task), **found.document()}, indent=2))
    else:
        _print_found(task, found)
    if found.problems:
        sys.exit(1)


def show(folder: Folder, as_json: AsJson = False) -> None:
    """Show what a task's folder asks, how it is scored, its digest, and its first held-out items.

    `lorary task show` with a folder; the registry's command also shows what was pushed.
    """
    task = read(folder)
    items = task.side("held_out")[:SHOWN]
    asked = [{"prompt": task.prompt(item), "target": item.target} for item in items]
    if as_json:
        print(json.dumps({**_described(task), "asked": asked}, indent=2))
        return
    spec = task.spec
    print(plain(f"{spec.name}: {spec.about}"))
    print(plain(f"scored by {spec.score.kind}; {spec.licence}; {spec.source}"))
    print(f"digest {task.digest}")
    for file in task.files:
        print(f"  {file.sha256[:12]}  {file.size:>10,}  {file.path}")
    for one in asked:
        print(plain(f"\n{one['prompt']}\n=> {one['target']}"))


def _described(task: TaskFolder) -> dict[str, Any]:
    return {
        "name": task.spec.name,
        "digest": task.digest,
        "score": task.spec.score.kind,
        "files": [
            {"path": file.path, "size": file.size, "sha256": file.sha256} for file in task.files
        ],
        "spec": msgspec.to_builtins(task.spec),
    }


def _print_found(task: TaskFolder, found: Checked) -> None:
    print(f"{task.spec.name}: scored by {task.spec.score.kind}, digest {task.digest[:12]}")
    for side in SIDES:
        print(f"  {found.items[side]:>6} items in {found.units[side]:>6} units  {side}")
    if found.labels:
        print("  train  held out  calibration  label")
        for label, sides in found.labels.items():
            counts = "{:7} {:9} {:12}".format(*(sides[side] for side in SIDES))
            print(plain(f"{counts}  {label}"))
    print(
        f"  {found.exact} held-out items have their text in training, {found.passages} more share "
        "a passage of 13 words with it"
    )
    for title, problems in (("problem", found.problems), ("remark", found.remarks)):
        for problem in problems[:100]:
            print(plain(f"{title}: {problem}"))
        if len(problems) > 100:
            print(f"and {len(problems) - 100} more")
    if not found.problems:
        print("No problems.")
