"""Routes that take bytes: which blobs are missing, a blob, and a version made of blobs."""

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from starlette.concurrency import run_in_threadpool

from adapters.admission import DEFAULT_LIMITS
from adapters.names import AdapterRef
from registry.access import has_role
from registry.api.access import Caller, CallerDep
from registry.api.schemas import PublishBody, Sha256, UploadsBody
from registry.api.views import version_view
from registry.blobs import Blobs
from registry.errors import BadRequest, DigestMismatch, Forbidden, TooLarge
from registry.events import File
from registry.publishing import publish

router = APIRouter(tags=["publishing"])


def publisher(caller: CallerDep) -> Caller:
    """A caller who may publish somewhere; raises `Forbidden`."""
    if not any(has_role(caller.key, "publish", grant.domain) for grant in caller.key.grants):
        raise Forbidden(f"Key {caller.key.id} may not publish. Ask an operator for the role.")
    return caller


PublisherDep = Annotated[Caller, Depends(publisher)]


@router.post("/uploads")
def missing_blobs(caller: PublisherDep, body: UploadsBody) -> dict[str, list[str]]:
    """Which of these digests the registry does not hold yet."""
    return {"missing": sorted(Blobs(caller.registry.store).missing(body.sha256))}


@router.put("/blobs/{sha256}", status_code=204)
async def upload_blob(
    caller: PublisherDep,
    sha256: Sha256,
    request: Request,
    content_length: Annotated[int | None, Header()] = None,
) -> None:
    """One file's content. It goes to disk as it comes, and is hashed on the way."""
    limit = caller.settings.max_upload_bytes
    if content_length is None:
        raise BadRequest("Content-Length is missing. Say how many bytes will come.")
    if content_length > limit:
        raise TooLarge(f"{content_length} bytes are above the limit of {limit}. Upload less.")
    hashing, received = hashlib.sha256(), 0
    with tempfile.NamedTemporaryFile(prefix="lorary-upload-") as file:
        async for piece in request.stream():
            received += len(piece)
            if received > limit:
                raise TooLarge(f"More than {limit} bytes came. Upload less.")
            hashing.update(piece)
            file.write(piece)
        if hashing.hexdigest() != sha256:
            raise DigestMismatch(
                f"The {received} bytes that came are not those of {sha256[:12]}. Send them again."
            )
        file.flush()
        blobs = Blobs(caller.registry.store)
        await run_in_threadpool(blobs.put_file, Path(file.name), sha256)


@router.post("/adapters/{domain}/{adapter}/versions", status_code=201)
def publish_version(
    caller: CallerDep, domain: str, adapter: str, body: PublishBody
) -> dict[str, Any]:
    """Make uploaded blobs the next version, if admission finds nothing wrong."""
    ref = AdapterRef.parse(f"{domain}/{adapter}")
    caller.require("publish", domain)
    version = publish(
        caller.registry,
        domain=ref.domain,
        adapter=adapter,
        base=body.base,
        files=[File(file.path, file.size, file.sha256) for file in body.files],
        actor=caller.key.id,
        limits=replace(
            DEFAULT_LIMITS,
            max_rank=caller.settings.max_lora_rank,
            max_file_bytes=caller.settings.max_upload_bytes,
        ),
    )
    return version_view(version)
