"""Routes of tasks: list, show, publish, and read their files."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response

from adapters.names import AdapterRef, check_name
from registry.errors import UnknownFile, VersionGone
from registry.http.access import Caller, CallerDep
from registry.http.paging import LIMIT, After, Limit, page_of
from registry.http.schemas import Body, FieldsOf, given
from registry.http.transfers import answer_file
from registry.http.turns import in_turn
from registry.http.views import LISTED, task_version_view, task_view
from registry.model.access import has_role, may_audit
from registry.model.task_versions import TaskVersion
from registry.model.tasks import PublishTask, find, paths
from registry.publish.tasks import publish_task

router = APIRouter(tags=["tasks"])


@router.get("/domains/{domain}/tasks")
def list_tasks(
    caller: CallerDep, domain: str, after: After = "", limit: Limit = LIMIT
) -> list[dict[str, Any]]:
    """A page of the domain's tasks, each with its newest versions."""
    caller.looks_at(AdapterRef(check_name(domain, "domain")))
    caller.catalog.domain(domain)
    tasks = caller.catalog.tasks
    names = (tasks[path].name for path in paths(caller.catalog, domain))
    return [task_view(tasks[f"{domain}/{name}"], LISTED) for name in page_of(names, after, limit)]


@router.get("/domains/{domain}/tasks/{task}")
def show_task(caller: CallerDep, domain: str, task: str) -> dict[str, Any]:
    """One task and its newest versions."""
    _look(caller, domain, task)
    find(caller.catalog, domain, task)
    return task_view(caller.catalog.tasks[f"{domain}/{task}"])


@router.get("/domains/{domain}/tasks/{task}/versions/{version}")
def show_task_version(caller: CallerDep, domain: str, task: str, version: int) -> dict[str, Any]:
    """One version of a task.

    The digests of its files are shown to those alone who may read them: who knows the digest of a
    file can publish a version that holds it.
    """
    _look(caller, domain, task)
    found = find(caller.catalog, domain, task, version)
    return task_version_view(found, digests=may_read(caller, domain))


@router.post("/domains/{domain}/tasks/{task}/versions", status_code=201)
async def publish_version(
    caller: CallerDep,
    request: Request,
    domain: str,
    task: str,
    body: Annotated[
        Body, FieldsOf(PublishTask, "domain", "task", "digest", "about", "licence", "read_at")
    ],
) -> dict[str, Any]:
    """Make uploaded files the task's next version. It takes the role evaluate."""
    caller.require("evaluate", check_name(domain, "domain"))
    who = caller.key.id
    version = await in_turn(
        request,
        "examine",
        publish_task,
        caller.registry,
        domain=domain,
        task=task,
        actor=who,
        **given(body),
    )
    return task_version_view(version, digests=True)


@router.get("/domains/{domain}/tasks/{task}/versions/{version}/files")
def download(
    caller: CallerDep,
    domain: str,
    task: str,
    version: int,
    path: Annotated[str, Query(max_length=600)],
    range: Annotated[str | None, Header()] = None,
) -> Response:
    """One file of a version, or a range of it. It takes the role evaluate, audit or operate, as
    reports do: the files hold the held-out items and their answers."""
    _look(caller, domain, task)
    if not may_read(caller, domain):
        caller.require("evaluate", domain)
    found = kept(find(caller.catalog, domain, task, version))
    file = next((file for file in found.files if file.path == path), None)
    if file is None:
        listed = ", ".join(file.path for file in found.files)
        raise UnknownFile(f"Task {found.ref} has no file {path[:100]!r}. It has {listed}.")
    direct = caller.settings.direct_transfers
    return answer_file(caller.registry.store, file, range, direct=direct)


def may_read(caller: Caller, domain: str) -> bool:
    """Whether the caller may read the files of the domain's tasks."""
    return has_role(caller.key, "evaluate", domain) or may_audit(caller.key, domain)


def kept(version: TaskVersion) -> TaskVersion:
    """The version itself; raises `VersionGone` if it is retired."""
    if version.retired is not None:
        raise VersionGone(f"Task {version.ref}", version.retired)
    return version


def _look(caller: Caller, domain: str, task: str) -> None:
    """Raises unless the caller may look into the domain and the names are well-formed."""
    caller.looks_at(AdapterRef(check_name(domain, "domain")))
    check_name(task, "task")
