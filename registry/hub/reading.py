"""What the Hub's clients ask in order to list and fetch."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response

from adapters.errors import LoraryError
from adapters.names import AdapterRef
from registry import errors
from registry.http.access import Caller, CallerDep
from registry.http.transfers import answer_file
from registry.http.views import SHOWN
from registry.hub.cards import card_data
from registry.hub.paths import PATHS_BODY, PathsDep
from registry.hub.revisions import MAIN, changed_in, commit_id, find, newest
from registry.hub.views import commit_view, file_view, model_view, refs_view, tags, time_for
from registry.model.access import has_role
from registry.model.catalog import Adapter, File, Version

router = APIRouter(tags=["hub"])
PAGE = 100
_SELECTING = ("search", "author", "filter", "limit", "sort", "direction", "after")
_SHOWING = ("full", "config", "cardData", "fetch_config", "expand", "expand[]")
ExpandQuery = Annotated[list[str] | None, Query(max_length=50)]
"""The fields that a client asks for; others may come, too."""


@router.get("/api/whoami-v2")
def whoami(caller: CallerDep) -> dict[str, Any]:
    """Whom a token belongs to; domains are shown as organisations."""
    grants = caller.key.grants
    writes = any(has_role(caller.key, "publish", grant.domain) for grant in grants)
    token = {"displayName": caller.key.name, "role": "write" if writes else "read"}
    domains = [name for name in sorted(caller.catalog.domains) if caller.may_see(name)]
    return {
        "type": "user",
        "id": caller.key.id,
        "name": caller.key.id,
        "fullname": caller.key.name,
        "orgs": [{"type": "org", "name": name, "fullname": name} for name in domains],
        "auth": {"type": "access_token", "accessToken": token},
    }


@router.get("/api/models")
def list_models(
    caller: CallerDep,
    request: Request,
    response: Response,
    search: Annotated[list[str] | None, Query(max_length=20)] = None,
    author: str | None = None,
    filter: Annotated[list[str] | None, Query()] = None,
    limit: Annotated[int, Query(ge=1)] = PAGE,
    sort: Annotated[str | None, Query(max_length=50)] = None,
    direction: Annotated[str | None, Query(max_length=10)] = None,
    after: str = "",
) -> list[dict[str, Any]]:
    """Adapters that the caller may see; further pages by the `Link` header.

    sort: `lastModified` or `createdAt`, the newest first unless `direction` is 1. By anything else,
    such as downloads, which nobody counts, all are equal: they are sorted by name.
    after: the last adapter of the page before. By other fields, adapters cannot be selected.
    """
    other = set(request.query_params).difference(_SELECTING, _SHOWING)
    if other:
        raise errors.NotOffered(
            f"Listing models by {', '.join(sorted(other))[:200]} is not offered by Lorary. Use "
            "author, search, filter (tags), sort and limit."
        )
    wanted = set(filter or ())
    found = [
        (path, adapter)
        for path, adapter in sorted(caller.catalog.adapters.items())
        if caller.may_see(adapter.domain)
        and author in (None, adapter.domain)
        and all(part.lower() in path.lower() for part in search or ())
        and wanted <= set(tags(adapter, newest(adapter)))
    ]
    if sort in ("lastModified", "createdAt"):
        found.sort(key=lambda one: time_for(sort, one[1]), reverse=direction != "1")
    begin = next((n for n, (path, _) in enumerate(found, 1) if path == after), 0)
    page = found[begin : begin + min(limit, PAGE)]
    if len(found) > begin + len(page):
        url = request.url.include_query_params(after=page[-1][0])
        response.headers["Link"] = f'<{url}>; rel="next"'
    return [model_view(adapter, None) for _, adapter in page]


@router.get("/api/models/{domain}/{adapter}")
def model_info(
    caller: CallerDep, domain: str, adapter: str, expand: ExpandQuery = None
) -> dict[str, Any]:
    """An adapter, showing what `main` names or else its newest version."""
    found = _adapter(caller, domain, adapter)
    try:
        return _described(caller, found, find(caller.catalog, domain, adapter, MAIN), expand)
    except errors.UnknownAlias:
        return _described(caller, found, newest(found), expand)


@router.get("/api/models/{domain}/{adapter}/revision/{revision}")
def model_revision(
    caller: CallerDep,
    domain: str,
    adapter: str,
    revision: str,
    expand: ExpandQuery = None,
) -> dict[str, Any]:
    """An adapter at one version. Clients from 0.30 to 0.36 ask before they publish whether `main`
    of what they publish to, which may not exist yet, is kept in Xet storage."""
    ref = caller.looks_at(AdapterRef.parse(f"{domain}/{adapter}"))
    try:
        version = find(caller.catalog, domain, adapter, revision)
        view = _described(caller, caller.catalog.adapter(ref), version, expand)
    except (errors.UnknownAdapter, errors.UnknownAlias):
        publishes = revision == MAIN and has_role(caller.key, "publish", domain)
        if not publishes or expand != ["xetEnabled"]:
            raise
        view = {"id": ref.path}
    return {**view, "xetEnabled": False} if expand else view


@router.get("/api/models/{domain}/{adapter}/tree/{revision}")
@router.get("/api/models/{domain}/{adapter}/tree/{revision}/{path:path}")
def tree(
    caller: CallerDep,
    domain: str,
    adapter: str,
    revision: str,
    path: str = "",
    expand: bool = False,
) -> list[dict[str, Any]]:
    """The files of a version, which has no folders; with `expand` each with its last change."""
    version = _listed(caller, domain, adapter, revision)
    if version is None:
        return []
    if path.strip("/"):
        raise _no_entry(version, path)
    return _files(caller, version, expand=expand)


@router.post("/api/models/{domain}/{adapter}/paths-info/{revision}", openapi_extra=PATHS_BODY)
def paths_info(
    caller: CallerDep, domain: str, adapter: str, revision: str, asked: PathsDep
) -> list[dict[str, Any]]:
    """Those of the paths that are files of the version."""
    version = _version(caller, domain, adapter, revision)
    files = _files(caller, version, expand=asked.expand)
    return [file for file in files if file["path"] in asked.paths]


@router.get("/api/models/{domain}/{adapter}/refs")
def refs(caller: CallerDep, domain: str, adapter: str) -> dict[str, Any]:
    """Versions and aliases as tags."""
    return refs_view(_adapter(caller, domain, adapter))


@router.get("/api/models/{domain}/{adapter}/commits/{revision}")
def commits(
    caller: CallerDep,
    request: Request,
    response: Response,
    domain: str,
    adapter: str,
    revision: str,
    p: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1)] = SHOWN,
) -> list[dict[str, Any]]:
    """The versions up to `revision` as commits, the newest first; on main, to which commits are
    made, all. Further pages by the `Link` header. p: the page, from 0."""
    versions, size = _adapter(caller, domain, adapter).versions, min(limit, SHOWN)
    on_main = revision == MAIN
    last = len(versions) if on_main else find(caller.catalog, domain, adapter, revision).number
    end = max(0, last - p * size)
    response.headers["X-Total-Count"] = str(last)
    if end > size:
        url = request.url.include_query_params(p=p + 1)
        response.headers["Link"] = f'<{url}>; rel="next"'
    return [commit_view(version) for version in reversed(versions[max(0, end - size) : end])]


@router.get("/api/models/{domain}/{adapter}/auth-check")
def auth_check(caller: CallerDep, domain: str, adapter: str) -> dict[str, bool]:
    """Whether the caller may look."""
    _adapter(caller, domain, adapter)
    return {"ok": True}


@router.head("/{domain}/{adapter}/resolve/{revision}/{path:path}", include_in_schema=False)
@router.head("/{domain}/{adapter}/raw/{revision}/{path:path}", include_in_schema=False)
@router.get("/{domain}/{adapter}/raw/{revision}/{path:path}", operation_id="hub_raw")
@router.get("/{domain}/{adapter}/resolve/{revision}/{path:path}", operation_id="hub_resolve")
def resolve_file(
    caller: CallerDep,
    request: Request,
    domain: str,
    adapter: str,
    revision: str,
    path: str,
    range: Annotated[str | None, Header()] = None,
) -> Response:
    """One file of a version, or what is known of it."""
    version = _for_file(caller, domain, adapter, revision, path)
    file = next((file for file in version.files if file.path == path), None)
    if file is None:
        raise _no_entry(version, path)
    headers = _headers(version, file)
    if request.method == "HEAD":
        headers["Content-Length"] = str(file.size)
        return Response(None, 200, headers, "application/octet-stream")
    direct = caller.settings.direct_transfers
    store = caller.registry.store
    return answer_file(store, file, range, direct=direct, headers=headers)


def _listed(caller: Caller, domain: str, adapter: str, revision: str) -> Version | None:
    """The version to list. A publisher who lists main where nothing is in production yet sees what
    a commit to main builds on, in order to delete files of it; None: there is nothing yet."""
    try:
        return _version(caller, domain, adapter, revision)
    except (errors.UnknownAdapter, errors.UnknownAlias):
        if revision != MAIN or not has_role(caller.key, "publish", domain):
            raise
        return newest(caller.catalog.adapters.get(f"{domain}/{adapter}"))


def _files(caller: Caller, version: Version, *, expand: bool) -> list[dict[str, Any]]:
    """The version's files; with `expand` each with the version that last changed it."""
    found = caller.catalog.adapters[f"{version.domain}/{version.adapter}"]
    return [
        file_view(file, changed_in(found, version, file) if expand else None)
        for file in version.files
    ]


def _described(
    caller: Caller, adapter: Adapter, version: Version | None, expand: list[str] | None
) -> dict[str, Any]:
    """A model, with the metadata of its card unless `expand` asks for other fields only."""
    view = model_view(adapter, version)
    if version is not None and (not expand or "cardData" in expand):
        view["cardData"] = card_data(caller.registry.store, version)
    return view


def _for_file(caller: Caller, domain: str, adapter: str, revision: str, path: str) -> Version:
    """The version to read a file of. A publisher's adapter that is not there yet is an empty
    repository to the Hub's clients: they look for a card in it before they push one."""
    try:
        return _version(caller, domain, adapter, revision)
    except (errors.UnknownAdapter, errors.UnknownAlias) as error:
        new = has_role(caller.key, "publish", domain) and revision == MAIN
        if not new:
            raise
        raise errors.UnknownFile(f"There is no {path[:80]!r} yet. {error.message}") from error


def _headers(version: Version, file: File) -> dict[str, str]:
    return {
        "X-Repo-Commit": commit_id(version),
        "ETag": f'"{file.sha256}"',
        "X-Linked-Etag": f'"{file.sha256}"',
        "X-Linked-Size": str(file.size),
        "X-Lorary-Adapter": str(version.ref),
        "Access-Control-Expose-Headers": "X-Repo-Commit, ETag",
    }


def _no_entry(version: Version, path: str) -> LoraryError:
    listed = ", ".join(file.path for file in version.files)
    return errors.UnknownFile(f"{version.ref} has no file {path[:80]!r}. It has {listed}.")


def _adapter(caller: Caller, domain: str, adapter: str) -> Adapter:
    ref = caller.looks_at(AdapterRef.parse(f"{domain}/{adapter}"))
    return caller.catalog.adapter(ref)


def _version(caller: Caller, domain: str, adapter: str, revision: str) -> Version:
    caller.looks_at(AdapterRef.parse(f"{domain}/{adapter}"))
    return find(caller.catalog, domain, adapter, revision)
