"""From uploaded files to a version of a task: read back what is stored, judge it, then commit."""

from collections.abc import Sequence

from adapters.names import check_name
from adapters.tasks import InvalidTask, Problem, TaskFolder, parse
from adapters.tasks.folder import MAX_BYTES, SPEC
from registry import errors
from registry.model.access import require
from registry.model.catalog import Catalog, File
from registry.model.evidence import TaskSuite
from registry.model.index import is_record
from registry.model.task_versions import TaskVersion
from registry.model.tasks import PublishTask, check_files
from registry.publish.stored import reading_back
from registry.registry import Registry
from registry.store.blobs import Blobs, content_digest


def publish_task(
    registry: Registry,
    *,
    domain: str,
    task: str,
    files: Sequence[File],
    suites: Sequence[TaskSuite],
    actor: str,
    message: str = "",
    expected: int | None = None,
) -> TaskVersion:
    """Make the stored blobs that `files` name the task's next version.

    suites, message, expected: as for `PublishTask`. The newest version's files and suites again
    return that version. Raises `InvalidTask` with every problem of the files, `ContentMissing` for
    files to upload (again), and what `decide` raises.
    """
    catalog = registry.refresh()
    check_name(task, "task")
    key = catalog.keys.get(actor)
    if key is None:
        raise errors.Unauthenticated("That key is not known here. Ask an operator for one.")
    require(key, "evaluate", domain)
    catalog.domain(domain)
    _check_listing(files, catalog)
    read = _read(Blobs(registry.store), files)
    if read.spec.name != task:
        said = f"It names the task {read.spec.name!r}, and this is {task!r}."
        raise InvalidTask([Problem(SPEC, 0, said)])
    command = PublishTask(
        domain,
        task,
        content_digest(files),
        tuple(files),
        tuple(suites),
        read.spec.about,
        read.spec.licence,
        message,
        read_at=catalog.sequence,
        expected=expected,
    )
    registry.execute(command, actor)
    versions = registry.catalog.tasks[f"{domain}/{task}"].versions
    return next(v for v in reversed(versions) if v.digest == command.digest)


def _check_listing(files: Sequence[File], catalog: Catalog) -> None:
    """Refuse a list that should not even be read back, such as one with the registry's own
    records: reading a task's files would be a way around what protects those."""
    check_files(files)
    problems = [
        Problem(file.path, 0, f"It has {file.size} bytes, above the limit.")
        for file in files
        if file.size > MAX_BYTES.get(file.path, 0)
    ]
    problems += [
        Problem(file.path, 0, "It is a report or a review of this registry. Leave it out.")
        for file in files
        if is_record(catalog.index, file.sha256)
    ]
    if problems:
        raise InvalidTask(problems)


def _read(blobs: Blobs, files: Sequence[File]) -> TaskFolder:
    """The task that the files make, as the store holds them."""
    content = {}
    for file in files:
        with reading_back(blobs, file):
            content[file.path] = b"".join(blobs.stream(file.sha256, file.size))
    return parse(content)
