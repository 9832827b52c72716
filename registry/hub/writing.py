"""What the Hub's clients ask before they commit: whether they may, and how each file shall come."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from adapters.card import parse_card
from adapters.errors import InvalidAdapter
from adapters.fields import Count, FilePath
from registry import errors
from registry.http.access import CallerDep
from registry.http.schemas import Sha256
from registry.http.turns import in_turn
from registry.hub import tickets
from registry.hub.publisher import require_publisher
from registry.hub.side_files import is_side_file
from registry.publish.incoming import incoming
from registry.store.blobs import Blobs

router = APIRouter(tags=["hub"])
INLINE = 512 << 20
"""Up to this size a file comes in the commit itself. Clients with Xet storage can send larger ones
only to a Xet server, so those must be directed to Git LFS."""


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
    if type != "model":
        raise errors.NotOffered(
            f"A repository of type {type!r} is not offered: Lorary holds adapters only."
        )
    if organization is None:
        raise errors.BadRequest(f"{name[:80]!r} is not an adapter. Write DOMAIN/ADAPTER.")
    ref = require_publisher(caller, organization, name)
    caller.catalog.domain(ref.domain)
    url = f"{str(request.base_url).rstrip('/')}/{ref.path}"
    body = {"url": url, "name": ref.path, "id": ref.path}
    if other := caller.catalog.in_another_case(ref.path):
        raise errors.Conflict(f"{other} exists, and differs in case only. Publish to that one.")
    if ref.path in caller.catalog.adapters:
        return JSONResponse({**body, "error": "It exists already."}, 409)
    return JSONResponse(body)


@router.post("/api/validate-yaml")
async def validate_card(
    request: Request, content: Annotated[str, Body(embed=True, max_length=4 << 20)]
) -> JSONResponse:
    """Whether a card's metadata can be read. Clients ask before they send anything, without a
    token, too: then the card has 64 KiB at most."""
    return await in_turn(request, "examine", _validate, content)


def _validate(content: str) -> JSONResponse:
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
    require_publisher(caller, domain, adapter, revision)
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
    require_publisher(caller, domain, adapter)
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
        await in_turn(request, "store", Blobs(registry.store).put_file, content.path, oid)
    return JSONResponse({})
