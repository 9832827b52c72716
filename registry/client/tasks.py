"""Verbs about tasks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from adapters.errors import InvalidName
from adapters.names import AdapterRef
from registry.client.connection import Connection
from registry.client.downloading import download
from registry.client.progress import Progress, no_progress
from registry.client.uploading import describe, publish
from registry.errors import BadRequest, DigestMismatch
from registry.model.catalog import File
from registry.model.evidence import TaskSuite
from registry.model.tasks import check_files
from registry.store.blobs import content_digest

Json: TypeAlias = "dict[str, Any]"
PARALLEL = 4


class TaskVerbs:
    """What a client can do with tasks."""

    _connection: Connection

    def tasks(self, domain: str) -> list[Json]:
        """The domain's tasks, each with its newest versions."""
        return self._connection.pages(f"/domains/{domain}/tasks", "name")

    def task(self, ref: str) -> Json:
        """One version of a task, `DOMAIN/TASK@VERSION`, or the newest of `DOMAIN/TASK`.

        The digests of its files are there only if the key may read them.
        """
        domain, task, number = task_ref(ref)
        place = f"/domains/{domain}/tasks/{task}"
        if number is None:
            number = self._connection.call("GET", place)["version_count"]
        version: Json = self._connection.call("GET", f"{place}/versions/{number}")
        return version

    def push_task(
        self,
        files: Mapping[str, Path],
        path: str,
        suites: Sequence[TaskSuite],
        *,
        message: str = "",
        expected: int | None = None,
        progress: Progress = no_progress,
    ) -> Json:
        """Publish files, by their names in the task's folder, as the next version of `DOMAIN/TASK`.

        suites: what the files ask, as policies name it. expected: as for `push`. Sends only what
        the registry lacks, and is safe to repeat.
        """
        domain, task, number = task_ref(path)
        if number is not None:
            raise InvalidName(f"{path!r} names a version. Write DOMAIN/TASK.")
        described = [describe(name, file) for name, file in files.items()]
        body: Json = {
            "files": [file.listed for file in described],
            "suites": msgspec.to_builtins(suites),
            "message": message,
        }
        if expected is not None:
            body["expected"] = expected
        place = f"/domains/{domain}/tasks/{task}/versions"
        return publish(self._connection, described, place, body, progress, parallel=PARALLEL)

    def pull_task(self, ref: str, directory: Path, *, progress: Progress = no_progress) -> Json:
        """Download a version's files into `directory`, each verified before it appears there, and
        all of them against the version's digest. It takes the role evaluate, audit or operate."""
        version = self.task(ref)
        domain, task, number = task_ref(version["ref"])
        source = f"/domains/{domain}/tasks/{task}/versions/{number}/files"
        try:
            files = [msgspec.convert(file, File) for file in version["files"]]
        except msgspec.ValidationError as error:  # this key sees no digests: the route says why
            self._connection.call("GET", source, params={"path": version["files"][0]["path"]})
            raise BadRequest(f"The files of task {version['ref']} are not listed.") from error
        check_files(files)
        if content_digest(files) != version["digest"]:
            raise DigestMismatch(f"The files of task {version['ref']} are not those of its digest.")
        directory.mkdir(parents=True, exist_ok=True)
        for file in files:
            listed, place = msgspec.to_builtins(file), directory / file.path
            download(self._connection, source, listed, place, progress, parallel=PARALLEL)
        return version


def task_ref(text: str) -> tuple[str, str, int | None]:
    """Domain, task and version of `DOMAIN/TASK[@VERSION]`; raises `InvalidName`."""
    ref = AdapterRef.parse(text)
    if ref.adapter is None or ref.alias is not None:
        raise InvalidName(f"{text[:80]!r} does not name a task. Write DOMAIN/TASK[@VERSION].")
    return ref.domain, ref.adapter, ref.version
