"""Tasks: how a domain's versions are asked and scored, as files that any team writes.

A task is versioned as an adapter is: immutable, by the digest of its files. It decides nothing by
itself. It counts once a policy names one of its suites, and to change a policy takes the role
`operate`; so a task is written by those who may `evaluate`, whose work it is, and not by
publishers, whom it judges. Its files hold the held-out items: whoever may read reports may read
them (`registry.http.tasks`).

What a version states about its suites is the pusher's claim. A wrong one opens no gate: evaluators
compute the suites anew from the files, and evidence on other digests than the policy's counts for
nothing.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from annotated_types import MaxLen, MinLen, Predicate

from adapters.fields import Comment, Count, Digest, Name, Number, Reason, is_line
from adapters.names import AdapterRef, check_name
from registry import errors
from registry.model.base import Command, Draft, Event, Route, made_of
from registry.model.catalog import Catalog, File
from registry.model.collection import spare
from registry.model.evidence import SuiteRule, TaskSuite
from registry.model.task_versions import Task, TaskVersion

MAX_FILES = 20
"""Files of one version."""
MAX_BYTES = 64 << 20
"""Bytes of all files of one version: the registry reads them, and whoever evaluates."""
Heading = Annotated[str, MaxLen(300), Predicate(is_line)]
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


class TaskPublished(Event, frozen=True):
    """A version of a task: these files, unchangeable."""

    optional = True
    domain: str
    task: str
    version: int
    digest: str
    files: tuple[File, ...]
    suites: tuple[TaskSuite, ...]
    about: str = ""
    licence: str = ""
    message: str = ""
    """The publisher's message: what changed, and why."""

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Add the version to its task, which begins with its first."""
        path = f"{self.domain}/{self.task}"
        task = draft.tasks.get(path, Task(domain=self.domain, name=self.task))
        if self.domain not in draft.domains or self.version != len(task.versions) + 1:
            raise LookupError(f"task {path}@{self.version} is not the next version")
        version = made_of(TaskVersion, self, number=self.version, publisher=by, published=at)
        draft.tasks[path] = msgspec.structs.replace(task, versions=(*task.versions, version))


class TaskRetired(Event, frozen=True):
    """No policy may name the version any more, and its files are given up; its history stays."""

    optional = True
    domain: str
    task: str
    version: int
    reason: str

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Mark it."""
        path = f"{self.domain}/{self.task}"
        versions = list(draft.tasks[path].versions)
        if not 1 <= self.version <= len(versions):
            raise LookupError(f"task {path} has no version {self.version}")
        retired = msgspec.structs.replace(versions[self.version - 1], retired=self.reason)
        versions[self.version - 1] = retired
        draft.tasks[path] = msgspec.structs.replace(draft.tasks[path], versions=tuple(versions))


class PublishTask(Command, frozen=True):
    """Make stored files the task's next version. They were verified already.

    Publishing again what is the newest version already changes nothing and succeeds, as with
    adapters. The same files with other suites are another version: a later Lorary may ask or score
    them otherwise.
    """

    event = TaskPublished
    role = "evaluate"
    domain: Name
    task: Name
    digest: Digest
    files: Annotated[tuple[File, ...], MinLen(1), MaxLen(MAX_FILES)]
    suites: Annotated[tuple[TaskSuite, ...], MinLen(1), MaxLen(100)]
    about: Heading = ""
    """What it asks, as its files say, and on which terms they may be used."""
    licence: Heading = ""
    message: Comment = ""
    read_at: Count = 0
    """As for `PublishVersion`."""
    expected: Count | None = None
    """Only if this is the task's newest version now (0: it has none), retired or not."""

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """The task's next version, unless its newest has these very files and suites.

        Raises `BadRequest` for files or suites that no version may have, `Conflict` for a name
        that differs from another in case only, `VersionConflict` if there is another version than
        the expected one by now, and `BeingCollected`.
        """
        catalog.domain(self.domain)
        check_name(self.task, "task")
        check_files(self.files)
        if len({suite.suite for suite in self.suites}) < len(self.suites):
            raise errors.BadRequest("A suite occurs twice in the task. Rename one of them.")
        path = f"{self.domain}/{self.task}"
        if path not in catalog.tasks:
            lower = path.lower()
            if other := next((p for p in catalog.tasks if p.lower() == lower), None):
                raise errors.Conflict(f"{other} exists, and differs in case only. Push that one.")
        versions = catalog.tasks[path].versions if path in catalog.tasks else ()
        if versions and versions[-1].retired is None:
            newest = versions[-1]
            if (newest.digest, newest.suites) == (self.digest, self.suites):
                return
        if self.expected is not None and self.expected != len(versions):
            raise errors.VersionConflict(
                f"The newest version of the task {path} is {len(versions)}, not {self.expected}. "
                f"Look at it (lorary task show {path}), then push on top of it."
            )
        spare(catalog, {file.sha256 for file in self.files}, self.read_at)
        yield self.caused(version=len(versions) + 1)


class RetireTask(Command, frozen=True):
    """Retire a version of a task that no policy names, and give up its files for good."""

    event = TaskRetired
    route = Route("POST", "/domains/{domain}/tasks/{task}/versions/{version}/retirement")
    domain: Name
    task: Name
    version: Number
    reason: Reason

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Retire it; again changes nothing. Raises `Conflict` while the domain's policy names it:
        nobody could produce the evidence that the policy asks for."""
        if not self.reason.strip():
            raise errors.BadRequest("Give a reason: whoever requests the version is shown it.")
        version = find(catalog, self.domain, self.task, self.version)
        if version.retired is not None:
            return
        rules = catalog.domain(self.domain).policy.suites
        if any(rule.task == version.named for rule in rules):
            raise errors.Conflict(
                f"The policy of {self.domain!r} names {version.named}. Let it name another version "
                f"first: lorary domain policy {self.domain}"
            )
        yield self.caused()


def find(catalog: Catalog, domain: str, task: str, number: int | None = None) -> TaskVersion:
    """A version of a task, retired or not; None: its newest.

    Raises `UnknownDomain`, `UnknownTask` with the nearest names, or `UnknownVersion`.
    """
    catalog.domain(domain)
    path = f"{domain}/{task}"
    found = catalog.tasks.get(path)
    if found is None:
        near = difflib.get_close_matches(path, paths(catalog, domain))
        advice = f"Did you mean {', '.join(near)}?" if near else f"See: lorary task ls {domain}"
        raise errors.UnknownTask(f"There is no task {path!r}. {advice}")
    number = len(found.versions) if number is None else number
    if not 1 <= number <= len(found.versions):
        raise errors.UnknownVersion(path, number, len(found.versions))
    return found.versions[number - 1]


def paths(catalog: Catalog, domain: str) -> list[str]:
    """The paths of a domain's tasks, in order."""
    return sorted(path for path, task in catalog.tasks.items() if task.domain == domain)


def check_rule(catalog: Catalog, domain: str, rule: SuiteRule) -> None:
    """Raises what `find` raises and `BadRequest` for a rule that names a task's version which is
    retired, or whose suites are others than the rule's."""
    if not rule.task:
        return
    _, task, number = AdapterRef.parse_version(f"{domain}/{rule.task}")
    version = find(catalog, domain, task, number)
    if version.retired is not None:
        raise errors.BadRequest(f"{version.ref} is retired: {version.retired}. Name another.")
    pinned = (rule.suite, rule.digest, rule.held_out)
    if pinned not in {(suite.suite, suite.digest, suite.held_out) for suite in version.suites}:
        has = ", ".join(suite.suite for suite in version.suites)
        raise errors.BadRequest(
            f"The task {version.ref} has no suite {rule.suite[:60]!r} with digest "
            f"{rule.digest[:12]} and items {rule.held_out[:12]} (its suites: {has}). Print its "
            f"rules: lorary suite policy {domain} --task {rule.task}"
        )


def check_files(files: Sequence[File]) -> None:
    """Raises `BadRequest` for a list of files that no task may have: names that lead elsewhere or
    hide, or differ in case only, and too many files or bytes."""
    if len(files) > MAX_FILES:
        raise errors.BadRequest(f"A task has at most {MAX_FILES} files, not {len(files)}.")
    seen: set[str] = set()
    for file in files:
        if not _FILE.fullmatch(file.path):
            raise errors.BadRequest(
                f"{file.path[:80]!r} is no name of a task's file. Use letters, digits, '.', '_' "
                "and '-', beginning with a letter, a digit or '_'."
            )
        if (lower := file.path.lower()) in seen:
            raise errors.BadRequest(f"{file.path!r} is listed twice. List every file once.")
        seen.add(lower)
    if (total := sum(file.size for file in files)) > MAX_BYTES:
        raise errors.BadRequest(
            f"A task has at most {MAX_BYTES} bytes, not {total}. Keep fewer items in it."
        )
