"""Tasks that were pushed to the registry: fetched by digest, verified, and made into suites."""

import shutil
import tempfile
from pathlib import Path

from adapters.home import cache
from adapters.tasks import InvalidTask, TaskFolder, read
from eval.suites import Suite
from registry.client import RegistryClient
from registry.model.evidence import TaskSuite


def described(suite: Suite) -> TaskSuite:
    """A suite as a pushed version lists it."""
    items = sum(len(task.questions) for task in suite.tasks)
    return TaskSuite(suite.name, suite.digest, suite.held_out, items)


def fetched(registry: RegistryClient, ref: str) -> TaskFolder:
    """The task `DOMAIN/TASK@VERSION`, kept in the cache by its digest.

    What the cache holds is hashed each time, and fetched again if it is not the version's. Raises
    what `pull_task` raises.
    """
    version = registry.task(ref)
    folder = cache("tasks", version["digest"])
    if (found := _kept(folder, version["digest"])) is not None:
        return found
    folder.parent.mkdir(parents=True, exist_ok=True)
    arriving = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".arriving-"))
    try:
        registry.pull_task(version["ref"], arriving)
        task = read(arriving)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            arriving.rename(folder)
        except OSError:  # another process brought it meanwhile, the same bytes
            if _kept(folder, version["digest"]) is None:
                raise
    finally:
        shutil.rmtree(arriving, ignore_errors=True)
    return task


def _kept(folder: Path, digest: str) -> TaskFolder | None:
    """What lies in the cache, if it is whole."""
    if not folder.is_dir():
        return None
    try:
        task = read(folder)
    except InvalidTask:
        return None
    return task if task.digest == digest else None
