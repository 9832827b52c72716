"""Tasks that were pushed to the registry: fetched by digest, verified, and made into suites."""

import dataclasses
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.home import cache
from adapters.tasks import InvalidTask, TaskFolder, read
from eval.errors import TaskDiffers
from eval.suites import Suite, suite_of
from registry.client import RegistryClient
from registry.model.evidence import TaskSuite


def described(suite: Suite) -> TaskSuite:
    """A suite as a pushed version lists it."""
    items = sum(len(task.questions) for task in suite.tasks)
    return TaskSuite(suite.name, suite.digest, suite.held_out, items)


def fetched(registry: RegistryClient, version: Mapping[str, Any]) -> TaskFolder:
    """The files of a version, kept in the cache by its digest.

    version: as `RegistryClient.task` shows it. What the cache holds is hashed each time, and
    fetched again if it is not the version's. Raises what `pull_task` raises.
    """
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


def pushed_suite(registry: RegistryClient, domain: str, task: str) -> Suite:
    """The suite of `TASK@VERSION`, or of the newest version of `TASK`, of a domain.

    Raises `TaskDiffers` if the version was pushed with other digests than its files have here.
    """
    version = registry.task(f"{domain}/{task}")
    suite = suite_of(fetched(registry, version), domain)
    listed = [TaskSuite(**said) for said in version["suites"]]
    if described(suite) not in listed:
        raise TaskDiffers(
            f"The files of {version['ref']} make other questions here than its push: another "
            f"version of Lorary pushed it, or it is wrong. Push them again with this one: lorary "
            f"task pull {version['ref']} FOLDER, then lorary task push FOLDER {domain}"
        )
    return dataclasses.replace(suite, pushed=f"{version['task']}@{version['version']}")


def required(
    registry: RegistryClient, domain: str, rules: Sequence[Mapping[str, Any]]
) -> list[Suite]:
    """The suites of the pushed tasks that a policy's rules name, in the rules' order."""
    named = dict.fromkeys(rule["task"] for rule in rules if rule.get("task"))
    return [pushed_suite(registry, domain, task) for task in named]


def newest(registry: RegistryClient, domain: str) -> list[str]:
    """The newest version of each of the domain's tasks that is not retired, `TASK@VERSION`."""
    kept = (
        [version for version in task["versions"] if version["retired"] is None]
        for task in registry.tasks(domain)
    )
    return [f"{versions[-1]['task']}@{versions[-1]['version']}" for versions in kept if versions]
