"""What the Hub's clients ask in order to publish: a commit becomes the adapter's next version."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from adapters.admission import CONFIG
from adapters.card import parse_card
from adapters.errors import InvalidAdapter
from adapters.fields import Count
from adapters.fields import Path as FilePath
from adapters.names import AdapterRef
from adapters.peft_config import MAX_CONFIG_BYTES, declared_base
from registry import errors
from registry.http.access import Caller, CallerDep
from registry.http.schemas import Sha256
from registry.hub import commit_body, tickets
from registry.hub.revisions import MAIN, commit_id, newest
from registry.hub.side_files import is_side_file
from registry.model.catalog import File, Version
from registry.publish.incoming import incoming
from registry.publish.publishing import publish
from registry.store.blobs import Blobs, blob_key

router = APIRouter(tags=["hub"])
ATTEMPTS = 5
"""How often a commit without a parent is made to a newer version if it was overtaken."""
INLINE = 512 << 20
"""Up to this size a file comes in the commit itself. Clients with Xet storage can send larger ones
only to a Xet server, so for those they must be told to use Git LFS."""


class LfsAnswer(JSONResponse):
    """As Git LFS names its answers."""

    media_type: str = "application/vnd.git-lfs+json"


class Announced(BaseModel):
    """A file that a client is about to send; what else it says of it is not needed."""

    path: FilePath
    size: Count


class LfsObject(BaseModel):
    """A large file by its digest."""

    oid: Sha256
    size: Count


@router.post("/api/repos/create")
def create_repo(
    caller: CallerDep,
    request: Request,
    name: Annotated[str, Body(max_length=200)],
    organization: Annotated[str | None, Body(max_length=200)] = None,
    type: Annotated[str, Body(max_length=20)] = "model",
) -> JSONResponse:
    """Nothing to do: an adapter begins with its first version. 409 if it has begun."""
    if type != "model" or organization is None:
        raise errors.BadRequest(f"{name[:80]!r} names no adapter. Write DOMAIN/ADAPTER.")
    ref = _publishes(caller, organization, name)
    caller.catalog.domain(ref.domain)
    url = f"{str(request.base_url).rstrip('/')}/{ref.path}"
    body = {"url": url, "name": ref.path, "id": ref.path}
    if ref.path in caller.catalog.adapters:
        return JSONResponse({**body, "error": "It exists already."}, 409)
    return JSONResponse(body)


@router.post("/api/validate-yaml")
def validate_card(content: Annotated[str, Body(embed=True, max_length=4 << 20)]) -> JSONResponse:
    """Whether a card's metadata can be read. Clients ask before they send anything, without a
    token, too: then the card has 64 KiB at most."""
    found: list[dict[str, str]] = []
    try:
        parse_card(content.encode("utf-8", "surrogatepass"))
    except InvalidAdapter as error:
        found.append({"message": error.message})
    return JSONResponse({"errors": found, "warnings": []}, 400 if found else 200)


@router.post("/api/models/{domain}/{adapter}/preupload/{revision}")
def preupload(
    caller: CallerDep,
    domain: str,
    adapter: str,
    revision: str,
    files: Annotated[list[Announced], Body(embed=True, max_length=1000)],
) -> dict[str, Any]:
    """How each file shall come: in the commit, by Git LFS if it is very large, or not at all."""
    _publishes(caller, domain, adapter, revision)
    return {
        "files": [
            {
                "path": file.path,
                "uploadMode": "regular" if file.size <= INLINE else "lfs",
                "shouldIgnore": is_side_file(file.path),
                "oid": None,
            }
            for file in files
        ]
    }


@router.get("/api/models/{domain}/{adapter}/xet-write-token/{revision}")
def xet_token() -> None:
    """There is no Xet storage here: says how to do without."""
    raise errors.BadRequest(
        f"Files above {INLINE >> 20} MiB need HF_HUB_DISABLE_XET=1 here, or `lorary push`."
    )


@router.post("/api/models/{domain}/{adapter}/discussions")
def discuss(domain: str, adapter: str) -> None:
    """There are no pull requests here: says what to do."""
    raise errors.BadRequest(
        f"{domain[:63]}/{adapter[:63]} takes no pull requests. Commit to main; experts review it."
    )


@router.post(
    "/{domain}/{adapter}.git/info/lfs/objects/batch",
    responses={200: {"content": {LfsAnswer.media_type: {}}}},
)
def lfs_batch(
    caller: CallerDep,
    request: Request,
    domain: str,
    adapter: str,
    objects: Annotated[list[LfsObject], Body(embed=True, max_length=1000)],
) -> LfsAnswer:
    """Where to send large files (Git LFS batch API, transfer `basic`)."""
    _publishes(caller, domain, adapter)
    missing = Blobs(caller.registry.store).missing(item.oid for item in objects)
    base = str(request.base_url).rstrip("/")
    answers: list[dict[str, Any]] = []
    limit = caller.settings.max_upload_bytes
    service_secret = caller.settings.session_secret.get_secret_value()
    for item in objects:
        answer: dict[str, Any] = {"oid": item.oid, "size": item.size}
        if item.size > limit:
            answer["error"] = {"code": 413, "message": f"Above the limit of {limit} bytes."}
        elif item.oid in missing:
            href = f"{base}/lfs/{tickets.issue(caller.key, item.oid, item.size, service_secret)}"
            answer["actions"] = {"upload": {"href": href, "header": {}}}
        answers.append(answer)
    return LfsAnswer({"transfer": "basic", "objects": answers})


@router.put("/lfs/{ticket}")
async def lfs_upload(request: Request, ticket: str) -> JSONResponse:
    """A large file's content, hashed on its way to the disk. The ticket stands for a key."""
    registry = request.app.state.registry
    catalog = await run_in_threadpool(registry.refresh)
    service_secret = request.app.state.settings.session_secret.get_secret_value()
    key, oid, size = tickets.redeem(catalog, ticket, service_secret)
    request.state.actor = key.id
    with incoming() as content:
        async for piece in request.stream():
            content.add(piece)
        if content.sha256 != oid or content.size != size:
            raise errors.DigestMismatch("What came is not what was announced. Send it again.")
        await run_in_threadpool(Blobs(registry.store).put_file, content.path, oid)
    return JSONResponse({})


@router.post("/api/models/{domain}/{adapter}/commit/{revision}")
async def commit(
    caller: CallerDep, request: Request, domain: str, adapter: str, revision: str
) -> dict[str, Any]:
    """Publish the newest version's files, changed as the operations say, as the next version."""
    ref = _publishes(caller, domain, adapter, revision)
    if request.query_params.get("create_pr"):
        discuss(domain, adapter)
    with (
        tempfile.TemporaryDirectory(prefix="lorary-commit-") as folder,
        tempfile.NamedTemporaryFile(dir=folder) as body,
    ):
        async for piece in request.stream():  # its size is bounded by `registry.http.bodies`
            body.write(piece)
        body.flush()
        version = await run_in_threadpool(_publish, caller, ref, Path(body.name), Path(folder))
    base = str(request.base_url).rstrip("/")
    return {
        "success": True,
        "commitOid": commit_id(version),
        "commitUrl": f"{base}/{ref.path}/commit/{commit_id(version)}",
        "hookOutput": str(version.ref),
        "pullRequestUrl": None,
    }


def _publish(caller: Caller, ref: AdapterRef, body: Path, folder: Path) -> Version:
    """Publish what the commit makes of the newest version; raises `VersionConflict` if that is not
    the one that the client built on."""
    parent, changes = _changes(caller, body, folder)
    for attempt in range(ATTEMPTS):
        adapter = caller.registry.refresh().adapters.get(ref.path)
        before = newest(adapter)
        if parent is not None and (before is None or commit_id(before) != parent):
            raise _other_parent(ref, before, parent)
        files = {file.path: file for file in before.files} if before else {}
        files |= {path: file for path, file in changes.items() if file is not None}
        for path in (path for path, file in changes.items() if file is None):
            files.pop(path, None)
        try:
            return publish(
                caller.registry,
                domain=ref.domain,
                adapter=ref.adapter or "",
                base=_declared_base(Blobs(caller.registry.store), files),
                files=list(files.values()),
                actor=caller.key.id,
                limits=caller.settings.limits,
                expected=len(adapter.versions) if adapter else 0,
            )
        except errors.VersionConflict:
            # Without a parent the changes are meant for whatever is newest: they are made to that.
            if parent is not None or attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returned or raised")


def _other_parent(ref: AdapterRef, before: Version | None, parent: str) -> errors.VersionConflict:
    """What to tell a client that built on a version which is not the newest."""
    if before is None:
        return errors.VersionConflict(f"{ref.path} has no version {parent[:40]!r}. Look again.")
    return errors.VersionConflict(
        f"A commit has happened since {parent[:40]!r}: {before.ref} ({commit_id(before)}), by "
        f"{before.publisher} at {before.published}. Fetch it, make your change to it, commit again."
    )


def _changes(caller: Caller, body: Path, folder: Path) -> tuple[str | None, dict[str, File | None]]:
    """The commit's parent, and what becomes of each path: a file, or None to leave it out."""
    blobs, parent = Blobs(caller.registry.store), None
    changes: dict[str, File | None] = {}
    for operation in commit_body.operations(body, folder):
        match operation:
            case commit_body.Header(said):
                parent = None if said is None else str(said)
            case commit_body.Inline(path, local, size, sha256):
                if blobs.missing([sha256]):
                    blobs.put_file(local, sha256)
                local.unlink()
                changes[path] = File(path, size, sha256)
            case commit_body.Uploaded(path, sha256):
                changes[path] = _stored(caller, path, sha256)
            case commit_body.Deleted(path):
                changes[path] = None
    return parent, changes


def _stored(caller: Caller, path: str, sha256: str) -> File:
    if not _is_digest(sha256):
        raise errors.BadRequest(f"{sha256[:64]!r} is no SHA-256.")
    try:
        return File(path, caller.registry.store.head(blob_key(sha256)).size, sha256)
    except errors.ObjectNotFound as error:
        raise errors.ContentMissing(f"{path[:80]!r} was not uploaded. Upload it first.") from error


def _declared_base(blobs: Blobs, files: Mapping[str, File]) -> str:
    """The base that the configuration names."""
    file = files.get(CONFIG)
    if file is None or file.size > MAX_CONFIG_BYTES:
        raise errors.BadRequest(
            f"The commit leaves no {CONFIG} in the adapter. Push what PEFT saved, in one commit."
        )
    return declared_base(blobs.get(file.sha256))


def _publishes(caller: Caller, domain: str, adapter: str, revision: str = MAIN) -> AdapterRef:
    """The adapter, if the caller may publish it and `revision` can be committed to."""
    ref = AdapterRef.parse(f"{domain}/{adapter}")
    caller.require("publish", ref.domain)
    if revision != MAIN:
        raise errors.BadRequest(f"{revision[:80]!r} cannot be committed to. Leave out revision.")
    return ref


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")
