"""`/v1/files` and `/v1/batches`, as OpenAI's API has them.

Callers see the files and batches of their own person, service or key alone. The lines of a batch go
through the gateway as requests of the key that made the batch (`GatewayLines`): they are resolved,
authorised, bounded and charged there, as all requests are, with the engine's lowest priority.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.errors import BadRequest, Forbidden
from registry.model.catalog import Catalog, Key
from serving.batches.batches import Batches
from serving.batches.files import DAY, Files, owner_of
from serving.batches.records import Batch
from serving.batches.slices import Answer
from serving.batches.uploads import KEEP_SECONDS, Uploads
from serving.errors import RouteNotFound
from serving.request.answers import answer
from serving.request.body import json_object
from serving.request.bounds import Bound, MapOf, OneOf, Shape, Text, Whole
from serving.settings import ServingSettings

ROUTES = ("/v1/files", "/v1/batches")
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings")
MAX_PAGE = 100
MAX_BATCH_BYTES = 32 << 10
ACTING = "lorary.acting"
"""In the scope of a batch's line: the id of the key that it is asked for. No caller can set it."""
_PATH = re.compile(r"/v1/(files|batches)(?:/([A-Za-z0-9_-]{1,64}))?(?:/(content|cancel))?")
BATCH_FIELDS: Mapping[str, Bound] = {
    "input_file_id": Text(64),
    "endpoint": OneOf(ENDPOINTS),
    "completion_window": OneOf(("24h",)),
    "metadata": MapOf(
        lambda key: len(key) <= 64, "their names of at most 64 characters", Text(512), 16
    ),
    "output_expires_after": Shape(
        {"anchor": OneOf(("created_at",)), "seconds": Whole(*KEEP_SECONDS)}, ("anchor", "seconds")
    ),
}
_QUERY: Mapping[str, re.Pattern[str]] = {
    "after": re.compile("[A-Za-z0-9_-]{0,64}"),
    "limit": re.compile("[1-9][0-9]{0,4}"),
    "order": re.compile("asc|desc"),
    "purpose": re.compile("[a-z_]{1,32}"),
}


class BatchApi:
    """The files and batches of one deployment, as its callers reach them."""

    def __init__(self, settings: ServingSettings) -> None:
        store, prefix = settings.open_store(), f"serving/{settings.deployment_name}/"
        self.keep_seconds = settings.batch_keep_days * DAY
        self.files = Files(
            store, prefix, most_bytes=settings.batch_owner_bytes, most_files=MAX_FILES
        )
        self.batches = Batches(store, prefix)
        self.uploads = Uploads(settings.batch_file_bytes, self.keep_seconds)
        self.wake = lambda: None
        """Called when there is a new batch."""

    async def serve(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        catalog: Catalog,
        key: Key,
        read: Any,
    ) -> None:
        """Answer one request. read: the request's body with at most so many bytes."""
        if not any(grant.role == "infer" for grant in key.grants):
            raise Forbidden(f"Key {key.id} may not infer. Ask an operator for the role.")
        owner = owner_of(catalog, key)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        match = _PATH.fullmatch(scope["path"])
        kind, name, action = match.groups() if match else ("", "", "")
        query = _query(scope["query_string"])
        files, batches = self.files, self.batches
        shown: dict[str, Any]
        match (method, kind, bool(name), action):
            case ("POST", "files", False, None):
                shown = await self._upload(scope, receive, owner, key)
            case ("GET", "files", False, None):
                shown = await self._page_of_files(owner, query)
            case ("GET", "files", True, None):
                shown = (await asyncio.to_thread(files.get, owner, name)).shown()
            case ("DELETE", "files", True, None):
                await asyncio.to_thread(files.delete, owner, name)
                shown = {"id": name, "object": "file", "deleted": True}
            case ("GET", "files", True, "content"):
                await self._send_content(owner, name, send)
                return
            case ("POST", "batches", False, None):
                shown = await self._create(await read(MAX_BATCH_BYTES), owner, key)
            case ("GET", "batches", False, None):
                after, limit = query.get("after", ""), _limit(query, 20)
                states, more = await asyncio.to_thread(
                    batches.page, owner, after=after, limit=limit
                )
                shown = _page([state.shown() for state in states], more=more)
            case ("GET", "batches", True, None):
                shown = (await asyncio.to_thread(batches.get, owner, name)).shown()
            case ("POST", "batches", True, "cancel"):
                shown = (await asyncio.to_thread(batches.cancel, owner, name)).shown()
                self.wake()
            case _:
                raise RouteNotFound(
                    f"{method[:10]} {scope['path'][:100]!r}: Not served. Use /v1/files and "
                    "/v1/batches as OpenAI's API has them."
                )
        await answer(send, 200, shown)

    async def _upload(self, scope: Scope, receive: Receive, owner: str, key: Key) -> dict[str, Any]:
        await asyncio.to_thread(self.files.check_quota, owner)
        async with self.uploads.read(scope, receive, key.id) as upload:
            await asyncio.to_thread(self.files.check_quota, owner, upload.size)
            file = await asyncio.to_thread(
                self.files.add,
                owner,
                upload.pieces(),
                filename=upload.filename,
                purpose="batch",
                keep_seconds=upload.keep_seconds,
            )
        return file.shown()

    async def _page_of_files(self, owner: str, query: Mapping[str, str]) -> dict[str, Any]:
        files, more = await asyncio.to_thread(
            self.files.page,
            owner,
            after=query.get("after", ""),
            limit=_limit(query, MAX_PAGE),
            newest_first=query.get("order") != "asc",
            purpose=query.get("purpose", ""),
        )
        return _page([file.shown() for file in files], more=more)

    async def _send_content(self, owner: str, name: str, send: Send) -> None:
        """Send a file's content piece by piece, as fast as its caller reads."""
        file = await asyncio.to_thread(self.files.get, owner, name)
        pieces = self.files.content(owner, name)
        piece: bytes | None = await asyncio.to_thread(next, pieces, b"")
        headers = {
            b"content-type": b"application/octet-stream",
            b"content-length": str(file.bytes).encode(),
            b"content-disposition": b"attachment",
            b"x-content-type-options": b"nosniff",
        }
        start: Message = {"type": "http.response.start", "status": 200}
        await send({**start, "headers": list(headers.items())})
        while piece is not None:
            following = await asyncio.to_thread(next, pieces, None)
            more = following is not None
            await send({"type": "http.response.body", "body": piece, "more_body": more})
            piece = following

    async def _create(self, data: bytes, owner: str, key: Key) -> dict[str, Any]:
        body = json_object(data, BATCH_FIELDS)
        for name, value in body.items():
            BATCH_FIELDS[name].check(name, value)
        for name in ("input_file_id", "endpoint", "completion_window"):
            if name not in body:
                raise BadRequest(f"`{name}` must be {BATCH_FIELDS[name]}. Send that.")
        await asyncio.to_thread(self.files.get, owner, body["input_file_id"])
        await asyncio.to_thread(self.files.check_quota, owner)
        keep = body.get("output_expires_after", {}).get("seconds", self.keep_seconds)
        state = await asyncio.to_thread(
            self.batches.create,
            owner,
            key.id,
            endpoint=body["endpoint"],
            input_file_id=body["input_file_id"],
            keep_seconds=min(keep, self.keep_seconds),
            metadata=body.get("metadata"),
        )
        self.wake()
        return state.shown()


MAX_FILES = 500
"""Files of one owner, with those that batches wrote."""


class GatewayLines:
    """Asks the gateway for the lines of batches, each as a request of the batch's key."""

    def __init__(self, gate: ASGIApp, app: Any = None) -> None:
        """app: what the requests of callers have as `app` in their scope."""
        self._gate, self._app = gate, app

    async def __call__(self, batch: Batch, body: bytes) -> Answer:
        """The gateway's answer to one line."""
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": batch.endpoint,
            "raw_path": batch.endpoint.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": headers,
            "client": None,
            "server": None,
            "state": {},
            "app": self._app,
            ACTING: batch.key,
        }
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        status, retry_after, pieces = 0, 0.0, []

        async def receive() -> Message:
            if not waiting:
                await asyncio.Event().wait()
            return waiting.pop()

        async def send(message: Message) -> None:
            nonlocal status, retry_after
            if message["type"] == "http.response.start":
                status = message["status"]
                retry_after = float(dict(message["headers"]).get(b"retry-after", b"0"))
            else:
                pieces.append(message.get("body", b""))

        await self._gate(scope, receive, send)
        return Answer(status, b"".join(pieces), retry_after)


def _query(text: bytes) -> dict[str, str]:
    """The parameters of a query that are known here, each within its bound."""
    try:
        given = dict(parse_qsl(text.decode("latin-1"), max_num_fields=20))
    except ValueError as error:
        raise BadRequest("The query has too many parameters. Send fewer.") from error
    for name, pattern in _QUERY.items():
        if name in given and not pattern.fullmatch(given[name]):
            raise BadRequest(f"The parameter {name!r} cannot be read. Leave it out.")
    return given


def _limit(query: Mapping[str, str], usual: int) -> int:
    return min(int(query.get("limit", usual)), MAX_PAGE)


def _page(shown: list[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {}
    return {"object": "list", "data": shown, "has_more": more, **ends}
