"""The suites of the tasks that Lorary ships: folders like any team's, found by the domain that
they name."""

import functools
from importlib.resources import as_file, files
from pathlib import Path

from adapters.tasks import TaskFolder, read
from adapters.tasks.scoring import Label
from eval.errors import UnknownSuite
from eval.suites.suite import Suite
from eval.suites.tasks import suite_of


@functools.cache
def suites_of(domain: str) -> tuple[Suite, ...]:
    """The suites shipped for a domain, and those for every domain that has some.

    Raises `UnknownSuite` for a domain that Lorary ships nothing for.
    """
    tasks = shipped()
    if not domain or domain not in {task.spec.domain for task in tasks}:
        known = ", ".join(sorted({task.spec.domain for task in tasks} - {""}))
        raise UnknownSuite(
            f"Lorary ships no suites for domain {domain!r}, only for {known}. Write a task of your "
            "own (lorary task new), and name its folder: --task FOLDER"
        )
    chosen = [task for task in tasks if task.spec.domain in (domain, "")]
    suites = [suite_of(task, domain) for task in chosen]
    # What confidence is fitted on comes first.
    return tuple(sorted(suites, key=lambda suite: (suite.task("calibration") is None, suite.name)))


@functools.cache
def shipped() -> tuple[TaskFolder, ...]:
    """Every task that comes with Lorary."""
    with as_file(files("adapters.tasks").joinpath("shipped")) as root:
        return tuple(read(folder) for folder in sorted(Path(root).iterdir()) if folder.is_dir())


def specialists() -> list[TaskFolder]:
    """The shipped tasks that an adapter of their domain is trained on: those with labels that are
    no exams."""
    return [
        task
        for task in shipped()
        if isinstance(task.spec.score, Label) and task.spec.domain and task.spec.split.held_out < 1
    ]
