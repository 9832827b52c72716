"""Pages that change something: sign in, upload, move an alias, approve."""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import StringConstraints
from starlette.datastructures import UploadFile

from adapters.admission import CONFIG, Problem
from adapters.errors import LoraryError
from adapters.names import AdapterRef
from adapters.peft_config import MAX_CONFIG_BYTES, declared_base
from registry.errors import AdmissionRefused, BadRequest, Unauthenticated
from registry.http.access import Caller
from registry.http.errors import log_refusal
from registry.http.turns import in_turn
from registry.model import access
from registry.model.access import Secret, has_role
from registry.model.aliases import MoveAlias
from registry.model.catalog import File, Version
from registry.model.versions import ApproveVersion
from registry.publish.incoming import incoming
from registry.publish.publishing import publish
from registry.store.blobs import Blobs
from registry.times import utc_now
from registry.web.rendering import page
from registry.web.session import COOKIE, ViewerDep, begin, end, same_site

router = APIRouter(include_in_schema=False)
Seen = Annotated[str, StringConstraints(pattern=r"^[^=]{1,63}=[0-9]{1,9}$")]


@router.get("/login", response_class=HTMLResponse)
def ask_for_key(next: str = "/") -> Response:
    """The form that takes a key."""
    return page("login.html", viewer=None, next=_local(next), error=None)


@router.post("/login", response_class=HTMLResponse)
def log_in(
    request: Request,
    key: Annotated[str, Form(max_length=300)],
    next: Annotated[str, Form(max_length=500)] = "/",
) -> Response:
    """Begin a session for whoever holds a key."""
    same_site(request)
    try:
        secret = Secret.parse(key.strip())
        known = access.authenticate(request.app.state.registry.refresh(), secret, utc_now())
    except Unauthenticated as error:
        log_refusal(request, error.status, error.code, error.message)
        return page("login.html", status=401, viewer=None, next=_local(next), error=error)
    response = RedirectResponse(_local(next), 303)
    service_secret = request.app.state.settings.session_secret.get_secret_value()
    begin(response, known, service_secret, secure=request.url.scheme == "https")
    return response


@router.post("/logout")
def log_out(request: Request) -> Response:
    """End the session."""
    same_site(request)
    end(request)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE)
    return response


@router.post("/adapters/{domain}/{adapter}/aliases")
def move_alias(
    viewer: ViewerDep,
    domain: str,
    adapter: str,
    alias: Annotated[str, Form(max_length=63)],
    version: Annotated[int, Form(ge=1)],
    seen: Annotated[list[Seen], Form()] = [],  # noqa: B006 - FastAPI copies it
) -> Response:
    """Move an alias from the version that it named when the page was shown.

    seen: `ALIAS=VERSION` for each alias that there was.
    """
    alias = alias.strip()
    before = dict(text.split("=") for text in seen)
    command = MoveAlias(domain, adapter, alias, version, int(before.get(alias, 0)))
    viewer.registry.execute(command, viewer.key.id)
    return RedirectResponse(f"/adapters/{domain}/{adapter}#aliases", 303)


@router.post("/adapters/{domain}/{adapter}/versions/{number}/approval")
def approve(
    viewer: ViewerDep,
    domain: str,
    adapter: str,
    number: int,
    digest: Annotated[str, Form(max_length=64)],
    statement: Annotated[str, Form(min_length=1, max_length=2000)],
) -> Response:
    """Approve the bytes that the viewer saw, with a statement; raises `BadRequest` without one."""
    if not statement.strip():
        raise BadRequest("The statement is empty. Say what you looked at, and why it may be used.")
    command = ApproveVersion(domain, adapter, number, digest, statement.strip())
    viewer.registry.execute(command, viewer.key.id)
    return RedirectResponse(f"/adapters/{domain}/{adapter}/versions/{number}", 303)


@router.get("/upload", response_class=HTMLResponse)
def ask_for_files(viewer: ViewerDep) -> Response:
    """The form that takes an adapter's files."""
    return _upload_page(viewer, "", "")


@router.post("/upload", response_class=HTMLResponse)
async def upload(viewer: ViewerDep, request: Request) -> Response:
    """Publish the files as the next version, or say everything that is wrong with them."""
    # Each file takes up to a MiB of memory before it goes to disk: see `registry.http.bodies`.
    limits = viewer.settings.limits
    async with request.form(max_files=limits.max_files, max_fields=2, max_part_size=200) as form:
        domain, adapter = (str(form.get(name, "")).strip() for name in ("domain", "adapter"))
        files = [file for file in form.getlist("files") if isinstance(file, UploadFile)]
        return await in_turn(request, "examine", _upload, viewer, domain, adapter, files)


def _upload(viewer: Caller, domain: str, adapter: str, files: list[UploadFile]) -> Response:
    try:
        version = _publish(viewer, domain, adapter, files)
    except AdmissionRefused as error:
        return _upload_page(viewer, domain, adapter, error.problems, error)
    except LoraryError as error:
        return _upload_page(viewer, domain, adapter, (), error)
    path = f"/adapters/{version.domain}/{version.adapter}/versions/{version.number}"
    return RedirectResponse(path, 303)


def _upload_page(
    viewer: Caller,
    domain: str,
    adapter: str,
    problems: tuple[Problem, ...] = (),
    error: LoraryError | None = None,
) -> Response:
    domains = [name for name in viewer.catalog.domains if has_role(viewer.key, "publish", name)]
    return page(
        "upload.html",
        status=error.status if error else 200,
        viewer=viewer,
        domains=sorted(domains),
        domain=domain,
        adapter=adapter,
        problems=problems,
        error=error,
    )


def _publish(viewer: Caller, domain: str, adapter: str, files: list[UploadFile]) -> Version:
    ref = AdapterRef.parse(f"{domain}/{adapter}")
    viewer.require("publish", ref.domain)
    blobs, listed, base = Blobs(viewer.registry.store), list[File](), ""
    for file in files:
        # A dropped folder gives its files as folder/name.
        name = (file.filename or "").rpartition("/")[2]
        with incoming() as content:
            while piece := file.file.read(1 << 20):
                content.add(piece)
            if name == CONFIG and content.size <= MAX_CONFIG_BYTES:
                base = declared_base(content.path.read_bytes())
            if blobs.missing([content.sha256]):
                blobs.put_file(content.path, content.sha256)
        listed.append(File(name, content.size, content.sha256))
    if not base:
        raise BadRequest(f"Choose {CONFIG}, too: it names the base model. PEFT saved it.")
    return publish(
        viewer.registry,
        domain=ref.domain,
        adapter=adapter,
        base=base,
        files=listed,
        actor=viewer.key.id,
        limits=viewer.settings.limits,
    )


def _local(path: str) -> str:
    """A path on this site and no other."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/"
