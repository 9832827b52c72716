"""A commit of the Hub's clients becomes the adapter's next version."""

import asyncio
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response

from adapters.admission import CONFIG, OPTIONAL, REQUIRED
from adapters.errors import LoraryError
from adapters.names import AdapterRef
from adapters.peft_config import MAX_CONFIG_BYTES, declared_base
from registry import errors
from registry.http.access import Caller, CallerDep
from registry.http.turns import in_turn
from registry.hub import commit_body
from registry.hub.not_offered import not_offered
from registry.hub.publisher import require_publisher
from registry.hub.revisions import commit_id, newest
from registry.model.catalog import Adapter, File, Version
from registry.model.differences import changed_files
from registry.publish.publishing import publish
from registry.store.blobs import Blobs, blob_key

router = APIRouter(tags=["hub"])
ATTEMPTS = 5
"""How often a commit without a parent is made to a newer version if it was overtaken."""
MESSAGE = 2000
"""Characters of a message that are kept."""
LARGE_FOLDER = "Add files using upload-large-folder tool"
"""The message of a commit of `upload_large_folder`, which repeats it at once if it is refused."""
PAUSE = 5.0
"""Seconds until such a commit is refused."""


@dataclass(slots=True)
class Proposed:
    """A commit as it was sent."""

    parent: str | None = None
    message: str = ""
    repeats: bool = False
    """Whether its client repeats it forever if it is refused."""
    changes: dict[str, File | None] = field(default_factory=dict)
    """What becomes of each path: a file, or None to delete it."""
    left_out: list[str] = field(default_factory=list)
    """Paths that no adapter may have, of a client that repeats."""


@router.post("/api/models/{domain}/{adapter}/commit/{revision}")
async def commit(
    caller: CallerDep,
    request: Request,
    response: Response,
    domain: str,
    adapter: str,
    revision: str,
) -> dict[str, Any]:
    """Publish the newest version's files, changed as the operations say, as the next version."""
    ref = require_publisher(caller, domain, adapter, revision)
    if request.query_params.get("create_pr"):
        raise not_offered("POST", f"/api/models/{ref.path}/discussions")
    with (
        tempfile.TemporaryDirectory(prefix="lorary-commit-") as folder,
        tempfile.NamedTemporaryFile(dir=folder) as body,
    ):
        async for piece in request.stream():  # its size is bounded by `registry.http.bodies`
            body.write(piece)
        body.flush()
        proposed = await in_turn(
            request, "examine", _proposed, caller, Path(body.name), Path(folder)
        )
    try:
        version = await in_turn(request, "examine", _publish, caller, ref, proposed)
    except LoraryError:
        if proposed.repeats:
            await asyncio.sleep(PAUSE)
        raise
    if proposed.left_out:
        named = ", ".join(ascii(path[:80]) for path in proposed.left_out[:10])
        response.headers["X-HF-Warning"] = f"left-out; {version.ref} was published without {named}."
    base = str(request.base_url).rstrip("/")
    return {
        "success": True,
        "commitOid": commit_id(version),
        "commitUrl": f"{base}/{ref.path}/commit/{commit_id(version)}",
        "hookOutput": str(version.ref),
        "pullRequestUrl": None,
    }


def _publish(caller: Caller, ref: AdapterRef, proposed: Proposed) -> Version:
    """Publish what the commit makes of the newest version; raises `VersionConflict` if that is not
    the one that the client built on."""
    parent = proposed.parent
    for attempt in range(ATTEMPTS):
        adapter = caller.registry.refresh().adapters.get(ref.path)
        before = newest(adapter)
        if parent is not None and (before is None or commit_id(before) != parent):
            raise _other_parent(ref, adapter, parent)
        files = _changed(ref, before, proposed.changes)
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
                message=proposed.message,
            )
        except errors.VersionConflict:
            # Without a parent the changes are meant for whatever is newest: they are made to that.
            if parent is not None or attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returned or raised")


def _changed(
    ref: AdapterRef, before: Version | None, changes: Mapping[str, File | None]
) -> dict[str, File]:
    """The files of the next version. Raises `UnknownFile` if all that the commit does is to delete
    files that are not there."""
    files = {file.path: file for file in before.files} if before else {}
    if changes and not any(changes.values()) and not changes.keys() & files:
        missing = ", ".join(repr(path[:80]) for path in list(changes)[:5])
        raise errors.UnknownFile(
            f"{before.ref if before else ref.path} has no file {missing} to delete."
        )
    changed: dict[str, File | None] = {**files, **changes}
    return {path: file for path, file in changed.items() if file is not None}


def _other_parent(ref: AdapterRef, adapter: Adapter | None, parent: str) -> errors.VersionConflict:
    """What to tell a client that built on a version which is not the newest."""
    before = newest(adapter)
    if adapter is None or before is None:
        return errors.VersionConflict(f"{ref.path} has no version {parent[:40]!r}. Look again.")
    since = next((v for v in reversed(adapter.versions) if commit_id(v) == parent), None)
    changed = f" Changed since {since.ref}: {changed_files(since, before)}." if since else ""
    return errors.VersionConflict(
        f"A commit has happened since {parent[:40]!r}: {before.ref} ({commit_id(before)}), by "
        f"{before.publisher} at {before.published}.{changed} Fetch it, make your change to it, "
        "commit again."
    )


def _proposed(caller: Caller, body: Path, folder: Path) -> Proposed:
    """The commit in `body`, its files' contents stored."""
    blobs, proposed = Blobs(caller.registry.store), Proposed()
    for operation in commit_body.operations(body, folder):
        match operation:
            case commit_body.Header(parent, summary, description):
                proposed.parent = None if parent is None else str(parent)
                proposed.message = _message(summary, description)
                proposed.repeats = summary == LARGE_FOLDER
            case commit_body.Inline(path) | commit_body.Uploaded(path) if (
                proposed.repeats and path not in REQUIRED and path not in OPTIONAL
            ):
                proposed.left_out.append(path)
            case commit_body.Inline(path, local, size, sha256):
                if blobs.missing([sha256]):
                    blobs.put_file(local, sha256)
                local.unlink()
                proposed.changes[path] = File(path, size, sha256)
            case commit_body.Uploaded(path, sha256):
                proposed.changes[path] = _stored(caller, path, sha256)
            case commit_body.Deleted(path):
                proposed.changes[path] = None
    return proposed


def _message(summary: str, description: str) -> str:
    """A commit's message: the summary in its first line, then the description; cut at its bound."""
    whole = "\n\n".join((" ".join(summary.split()), description.strip())).strip()
    return whole if len(whole) <= MESSAGE else f"{whole[: MESSAGE - 1]}…"


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


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")
