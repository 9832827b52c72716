"""Routes that take bytes: what must be sent, a blob or its parts, and a version made of blobs."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from adapters.names import AdapterRef
from registry.errors import (
    BadRequest,
    BeingCollected,
    Conflict,
    DigestMismatch,
    Forbidden,
    ObjectNotFound,
    TooLarge,
)
from registry.http.access import Caller, CallerDep
from registry.http.schemas import AssemblyBody, PublishBody, Sha256, UploadsBody
from registry.http.transfers import plan_upload
from registry.http.turns import in_turn
from registry.http.views import plain, version_view
from registry.model.access import UPLOADERS
from registry.model.standing import calibrated
from registry.publish.incoming import incoming
from registry.publish.publishing import publish
from registry.store.blobs import Blobs, blob_key, part_key

router = APIRouter(tags=["publishing"])


def uploader(caller: CallerDep) -> Caller:
    """A caller who may publish adapters or tasks somewhere; raises `Forbidden`."""
    if not any(grant.role in UPLOADERS for grant in caller.key.grants):
        raise Forbidden(
            f"Key {caller.key.id} has the role {' or '.join(map(repr, UPLOADERS))} in no domain. "
            "Ask an operator for it."
        )
    return caller


UploaderDep = Annotated[Caller, Depends(uploader)]


@router.post("/uploads", response_model=dict[str, list[dict[str, Any]]])
async def plan_uploads(caller: UploaderDep, request: Request, body: UploadsBody) -> Response:
    """What must be sent, and where to, before these files can be published: nothing twice."""
    return await in_turn(request, "store", _plan, caller, body)


def _plan(caller: Caller, body: UploadsBody) -> Response:
    """A plan may be long: the answer is written in this thread, too."""
    limit = caller.settings.max_upload_bytes
    for file in body.files:
        if file.size > limit:
            raise TooLarge(f"{file.size} bytes are above the limit of {limit}. Upload less.")
    if {file.sha256 for file in body.files} & set(caller.catalog.condemned):
        raise BeingCollected("Some of these files are being removed just now. Repeat in a moment.")
    store = caller.registry.store
    missing = Blobs(store).missing(file.sha256 for file in body.files)
    direct = caller.settings.direct_transfers
    plan = [
        {"sha256": file.sha256, "puts": plan_upload(store, file, direct=direct)}
        for file in body.files
        if file.sha256 in missing
    ]
    return JSONResponse({"uploads": plan})


@router.post("/uploads/{sha256}/assembly", status_code=204)
async def assemble(
    caller: UploaderDep, request: Request, sha256: Sha256, body: AssemblyBody
) -> None:
    """Join uploaded parts, once they have been hashed as the store holds them."""
    await in_turn(request, "store", _assemble, caller, sha256, body)


def _assemble(caller: Caller, sha256: str, body: AssemblyBody) -> None:
    blobs = Blobs(caller.registry.store)
    try:
        blobs.assemble(sha256, body.parts, caller.settings.max_upload_bytes)
    except ObjectNotFound as error:
        raise Conflict("Some parts are not here yet. Ask for the plan again.") from error


@router.put("/blobs/{sha256}", status_code=204)
async def upload_blob(
    caller: UploaderDep,
    sha256: Sha256,
    request: Request,
) -> None:
    """One file's content. It goes to disk as it comes, and is hashed on the way."""
    await _receive(caller, request, sha256, blob_key(sha256))


@router.put("/parts/{sha256}", status_code=204)
async def upload_part(
    caller: UploaderDep,
    sha256: Sha256,
    request: Request,
) -> None:
    """One part of a file, in the same way."""
    await _receive(caller, request, sha256, part_key(sha256))


async def _receive(caller: Caller, request: Request, sha256: str, key: str) -> None:
    if "content-length" not in request.headers:
        raise BadRequest("Content-Length is missing. Say how many bytes will come.")
    with incoming() as content:
        async for piece in request.stream():  # its size is bounded by `registry.http.bodies`
            content.add(piece)
        if content.sha256 != sha256:
            raise DigestMismatch(
                f"The {content.size} bytes that came are not those of {sha256[:12]}. "
                "Send them again."
            )
        put = caller.registry.store.put_file
        await in_turn(request, "store", put, key, content.path, sha256=sha256)


@router.post("/adapters/{domain}/{adapter}/versions", status_code=201)
async def publish_version(
    caller: CallerDep, request: Request, domain: str, adapter: str, body: PublishBody
) -> dict[str, Any]:
    """Make uploaded blobs the next version, if admission finds nothing wrong."""
    ref = AdapterRef.parse(f"{domain}/{adapter}")
    caller.require("publish", domain)
    version = await in_turn(
        request,
        "examine",
        publish,
        caller.registry,
        domain=ref.domain,
        adapter=adapter,
        base=body.base,
        files=body.files,
        actor=caller.key.id,
        limits=caller.settings.limits,
        expected=body.expected,
    )
    keys = caller.registry.catalog.keys
    return plain(version_view(version, calibrated(keys, version), keys))
