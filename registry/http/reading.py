"""Routes that look: adapters, versions, files, bases, domains, the log."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, NamedTuple, TypeAlias

import msgspec
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from adapters.names import AdapterRef, check_name
from registry.errors import UnknownFile, VersionGone
from registry.http.access import Caller, CallerDep, authenticated
from registry.http.paging import LIMIT, After, Limit, page_of
from registry.http.transfers import answer_file
from registry.http.views import LISTED, adapter_view, commit_view, domain_view, version_view
from registry.log.commits import CommitLog
from registry.model.access import require_some_audit
from registry.model.catalog import Key, Version
from registry.model.recorded import Calibrated
from registry.model.standing import calibrated

Endpoint: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]


class Direct(APIRoute):
    """A route asked so often that it takes the request and answers it itself: to have FastAPI solve
    its parameters, and keep what they opened, takes longer than all the rest of it."""

    def __init__(self, path: str, endpoint: Endpoint, **others: Any) -> None:
        super().__init__(path, endpoint, **others)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            response = await endpoint(Request(scope, receive))
            await response(scope, receive, send)

        self.app = app


class _Answer(NamedTuple):
    """The response for a version, and the values that it was made from."""

    version: Version
    calibration: Calibrated | None
    response: Response


class Told:
    """Recent evaluations' details, which stays right while nothing happens to
    them, and their calibration counts or does not count as before: both are values."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._answers: dict[tuple[str, str, int], _Answer] = {}

    def answer(self, version: Version, keys: Mapping[str, Key]) -> Response:
        """The version as JSON."""
        counting = calibrated(keys, version)
        key = (version.domain, version.adapter, version.number)
        kept = self._answers.get(key)
        if kept is None or kept.version is not version or kept.calibration is not counting:
            if len(self._answers) >= self._most:
                self._answers.clear()
            view = _json(version_view(version, counting, keys))
            kept = self._answers[key] = _Answer(version, counting, view)
        return kept.response

    @property
    def kept(self) -> int:
        """Versions whose answers are kept."""
        return len(self._answers)


_told = Told(1000)
router = APIRouter(tags=["reading"])


@router.get("/adapters", response_model=list[dict[str, Any]])
def list_adapters(
    caller: CallerDep,
    domain: str | None = None,
    search: Annotated[str, Query(max_length=200)] = "",
    after: After = "",
    limit: Limit = LIMIT,
) -> Response:
    """A page of the adapters that the caller may see whose path holds `search`, each with its
    newest versions and moves."""
    if domain is not None:
        caller.looks_at(AdapterRef.parse(domain))
        caller.catalog.domain(domain)
    adapters = caller.catalog.adapters
    seen = {name for name in caller.catalog.domains if caller.may_see(name)}
    found = (
        path
        for path, adapter in adapters.items()
        if adapter.domain in seen
        and domain in (None, adapter.domain)
        and search.lower() in path.lower()
    )
    return _json(
        [
            adapter_view(adapters[path], caller.catalog.domain(adapters[path].domain), LISTED)
            for path in page_of(found, after, limit)
        ]
    )


@router.get("/adapters/{domain}/{adapter}", response_model=dict[str, Any])
async def show_adapter(caller: CallerDep, domain: str, adapter: str) -> Response:
    """One adapter, its versions and aliases."""
    ref = caller.looks_at(AdapterRef.parse(f"{domain}/{adapter}"))
    return _json(adapter_view(caller.catalog.adapter(ref), caller.catalog.domain(domain)))


async def _resolve(request: Request) -> Response:
    """The version that any reference names now, revoked or not."""
    caller = await authenticated(request)
    return _told.answer(_find(caller, request.path_params["ref"]), caller.catalog.keys)


def resolving(prefix: str, responses: dict[int | str, dict[str, Any]]) -> APIRoute:
    """The route of `_resolve`, for an app that tries it before all others."""
    ref = {"name": "ref", "in": "path", "required": True, "schema": {"type": "string"}}
    return Direct(
        f"{prefix}/resolve/{{ref:path}}",
        _resolve,
        name="resolve",
        response_model=dict[str, Any],
        tags=["reading"],
        responses=responses,
        openapi_extra={"parameters": [ref]},
    )


@router.get("/files/{ref:path}")
def download(
    caller: CallerDep,
    ref: str,
    path: Annotated[str, Query(max_length=500)],
    range: Annotated[str | None, Header()] = None,
) -> Response:
    """One file of a version, or a range of it; from the bucket itself where it can be reached."""
    version = _find(caller, ref)
    if version.tombstone is not None:
        raise VersionGone(str(version.ref), version.tombstone)
    file = next((file for file in version.files if file.path == path), None)
    if file is None:
        listed = ", ".join(file.path for file in version.files)
        raise UnknownFile(f"{version.ref} has no file {path[:100]!r}. It has {listed}.")
    direct = caller.settings.direct_transfers
    return answer_file(caller.registry.store, file, range, direct=direct)


@router.get("/domains")
def list_domains(
    caller: CallerDep, after: After = "", limit: Limit = LIMIT
) -> list[dict[str, Any]]:
    """A page of the domains that the caller may see."""
    domains = caller.catalog.domains
    seen = (name for name in domains if caller.may_see(name))
    return [domain_view(domains[name]) for name in page_of(seen, after, limit)]


@router.get("/domains/{domain}")
def show_domain(caller: CallerDep, domain: str) -> dict[str, Any]:
    """A domain's policy and its default adapter."""
    caller.looks_at(AdapterRef(check_name(domain, "domain")))
    return domain_view(caller.catalog.domain(domain))


@router.get("/bases")
def list_bases(caller: CallerDep, after: After = "", limit: Limit = LIMIT) -> list[dict[str, Any]]:
    """A page of the registered base models."""
    known = caller.catalog.bases
    bases: list[dict[str, Any]] = msgspec.to_builtins(
        [known[name] for name in page_of(known, after, limit)]
    )
    return bases


@router.get("/log")
def read_log(
    caller: CallerDep,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[dict[str, Any]]:
    """Commits after a sequence number. It takes the role audit or operate; in some domains only,
    what concerns other domains is left out."""
    require_some_audit(caller.key)
    log = CommitLog(caller.registry.store)
    commits = []
    for sequence in range(after + 1, min(after + limit, caller.catalog.sequence) + 1):
        stored = log.read(sequence)
        if stored is None:
            break
        commits.append(commit_view(stored, caller.catalog, caller.key))
    return commits


def _json(view: Any) -> Response:
    """Plain JSON at once: what the catalog holds needs no second check on its way out."""
    return Response(msgspec.json.encode(view), media_type="application/json")


def _find(caller: Caller, ref: str) -> Version:
    return caller.catalog.find(caller.looks_at(AdapterRef.parse(ref)))
