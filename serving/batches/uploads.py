"""An uploaded file: a multipart form, read with bounds and kept on the disk beyond 1 MB."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope

from registry.errors import BadRequest, TooLarge
from serving.batches.files import DAY
from serving.errors import CallerLeft, LimitReached, SlowBody

FORM_BYTES = 64 << 10
"""What a form may have beside its file."""
UPLOAD_SECONDS = 300.0
AT_ONCE, OF_AN_OWNER = 4, 1
"""Uploads that may be under way on a replica, and of one owner's keys together."""
KEEP_SECONDS = (3_600, 30 * DAY)
"""What a caller may ask for with `expires_after`, as in OpenAI's API."""
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Upload:
    """A file as it was sent."""

    file: UploadFile
    filename: str
    size: int
    keep_seconds: int

    def pieces(self) -> Iterator[bytes]:
        """The content. Use it in a thread."""
        self.file.file.seek(0)
        while piece := self.file.file.read(_PIECE):
            yield piece


class Uploads:
    """Those that are under way. Use it from one event loop."""

    def __init__(self, most_bytes: int, most_seconds: int) -> None:
        """most_bytes: of a file. most_seconds: how long files are kept."""
        self.most_bytes = most_bytes
        self._most_seconds = most_seconds
        self._owners: list[str] = []

    @asynccontextmanager
    async def read(self, scope: Scope, receive: Receive, owner: str) -> AsyncIterator[Upload]:
        """The one file of a form, which is gone when the context ends.

        Raises `BadRequest`, `TooLarge`, `SlowBody`, `CallerLeft`, and `LimitReached` while others
        of the owner are under way.
        """
        yours = self._owners.count(owner)
        if len(self._owners) >= AT_ONCE or yours >= OF_AN_OWNER:
            raise LimitReached(
                f"There are {yours} uploads of yours, and {len(self._owners)} in all; "
                f"{OF_AN_OWNER} and {AT_ONCE} may be under way.",
                2.0,
            )
        self._owners.append(owner)
        try:
            request = Request(scope, self._bounded(receive))
            try:
                yield await self._parsed(request)
            finally:
                await request.close()
        finally:
            self._owners.remove(owner)

    async def _parsed(self, request: Request) -> Upload:
        kind = request.headers.get("content-type", "")
        if not kind.startswith("multipart/form-data"):
            raise BadRequest("A file is sent as multipart/form-data, with `file` and `purpose`.")
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                form = await request.form(max_files=1, max_fields=8, max_part_size=1 << 10)
        except TimeoutError as error:
            raise SlowBody(UPLOAD_SECONDS) from error
        except ClientDisconnect as error:
            raise CallerLeft from error
        except (HTTPException, MultiPartException) as error:
            raise BadRequest("The form cannot be read. Send `file` and `purpose`.") from error
        given = dict(form)
        file, purpose = given.pop("file", None), given.pop("purpose", None)
        if not isinstance(file, UploadFile):
            raise BadRequest("The form has no `file`. Send one.")
        if purpose != "batch":
            raise BadRequest('`purpose` must be "batch": other files have no use here.')
        keep = self._keep_seconds(
            given.pop("expires_after[anchor]", None), given.pop("expires_after[seconds]", None)
        )
        if given:
            raise BadRequest(f"The form's field {next(iter(given))[:60]!r} is not served here.")
        return Upload(file, _name(file.filename or ""), file.size or 0, keep)

    def _keep_seconds(self, anchor: object, seconds: object) -> int:
        if anchor is None and seconds is None:
            return self._most_seconds
        least, most = KEEP_SECONDS
        text = seconds if isinstance(seconds, str) and re.fullmatch("[0-9]{1,9}", seconds) else "0"
        if anchor != "created_at" or not least <= int(text) <= most:
            raise BadRequest(
                '`expires_after` must be {"anchor": "created_at", "seconds": from '
                f"{least:,} to {most:,}}}."
            )
        return min(int(text), self._most_seconds)

    def _bounded(self, receive: Receive) -> Receive:
        """A `receive` that hands out as much as a file may have and no more."""
        size = 0

        async def receive_bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.most_bytes + FORM_BYTES:
                raise TooLarge(
                    f"The file has more than {self.most_bytes:,} bytes. Send several batches."
                )
            return message

        return receive_bounded


def _name(given: str) -> str:
    """A file's name without folders and what cannot be printed."""
    name = re.split(r"[/\\]", given)[-1]
    return "".join(letter for letter in name if letter.isprintable())[:200] or "batch.jsonl"
