"""`/v1/files` and `/v1/batches`, as OpenAI's API has them.

Callers see the files and batches of their own person, service or key alone.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import Message, Receive, Scope, Send

from registry.errors import BadRequest, Forbidden
from registry.model.catalog import Key
from serving.batches.deployment import Deployment
from serving.batches.files import owner_of
from serving.batches.uploads import KEEP_SECONDS
from serving.errors import RouteNotFound
from serving.generation import admitted
from serving.inflight import Exchange
from serving.replica import Replica
from serving.request.answers import answer
from serving.request.body import json_object
from serving.request.bounds import Bound, MapOf, OneOf, Shape, Text, Whole
from serving.request.headers import declared_length
from serving.request.routes import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES
from serving.resolve import identify

ROUTES = ("/v1/files", "/v1/batches")
ENDPOINTS = (CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS)
MAX_PAGE, USUAL_PAGE = 100, 20
MAX_BATCH_BYTES = 32 << 10
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


async def serve(
    replica: Replica, shared: Deployment, scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer one request of the `ROUTES`, which counts as a request of its key."""
    replica.shutdown.check()
    catalog, key = await identify(replica, scope)
    async with admitted(replica, scope, key, receive, send) as (exchange, _):
        if not any(grant.role == "infer" for grant in key.grants):
            raise Forbidden(f"Key {key.id} may not infer. Ask an operator for the role.")
        owned = _Owned(shared, owner_of(catalog, key), key)
        shown = await owned.answer(scope, receive, exchange)
        if shown is not None:
            await answer(exchange.send, 200, shown)


class _Owned:
    """The files and batches of one owner, for one request."""

    def __init__(self, shared: Deployment, owner: str, key: Key) -> None:
        self._shared, self._owner, self._key = shared, owner, key
        self._run = shared.threads.run

    async def answer(
        self, scope: Scope, receive: Receive, exchange: Exchange
    ) -> dict[str, Any] | None:
        """What to show; None if it was sent already."""
        owner, files, batches = self._owner, self._shared.files, self._shared.batches
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        match = _PATH.fullmatch(scope["path"])
        kind, name, action = match.groups() if match else ("", "", "")
        query = _query(scope["query_string"])
        match (method, kind, bool(name), action):
            case ("POST", "files", False, None):
                return await self._upload(scope, receive)
            case ("GET", "files", False, None):
                return await self._page_of_files(query)
            case ("GET", "files", True, None):
                return (await self._run(files.get, owner, name)).shown()
            case ("DELETE", "files", True, None):
                await self._run(files.delete, owner, name)
                return {"id": name, "object": "file", "deleted": True}
            case ("GET", "files", True, "content"):
                await self._send_content(name, exchange)
                return None
            case ("POST", "batches", False, None):
                data = await exchange.read(declared_length(scope), MAX_BATCH_BYTES)
                return await self._create(data)
            case ("GET", "batches", False, None):
                return await self._page_of_batches(query)
            case ("GET", "batches", True, None):
                return (await self._run(batches.get, owner, name)).shown()
            case ("POST", "batches", True, "cancel"):
                state = await self._run(batches.cancel, owner, name)
                self._shared.changed.set()
                return state.shown()
            case _:
                raise RouteNotFound(
                    f"{method[:10]} {scope['path'][:100]!r}: Not served. Use /v1/files and "
                    "/v1/batches as OpenAI's API has them."
                )

    async def _upload(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        owner, files = self._owner, self._shared.files
        await self._run(files.check_quota, owner)
        async with self._shared.uploads.read(scope, receive, owner) as upload:
            await self._run(files.check_quota, owner, upload.size)
            file = await self._run(
                files.add,
                owner,
                upload.pieces(),
                filename=upload.filename,
                purpose="batch",
                keep_seconds=upload.keep_seconds,
            )
        return file.shown()

    async def _page_of_batches(self, query: Mapping[str, str]) -> dict[str, Any]:
        states, more = await self._run(
            self._shared.batches.page,
            self._owner,
            after=query.get("after", ""),
            limit=_limit(query, USUAL_PAGE),
        )
        return _page([state.shown() for state in states], more=more)

    async def _page_of_files(self, query: Mapping[str, str]) -> dict[str, Any]:
        files, more = await self._run(
            self._shared.files.page,
            self._owner,
            after=query.get("after", ""),
            limit=_limit(query, MAX_PAGE),
            newest_first=query.get("order") != "asc",
            purpose=query.get("purpose", ""),
        )
        return _page([file.shown() for file in files], more=more)

    async def _send_content(self, name: str, exchange: Exchange) -> None:
        """Send a file's content piece by piece, as fast as its caller reads each."""
        file = await self._run(self._shared.files.get, self._owner, name)
        pieces = self._shared.files.content(self._owner, name)
        piece = await self._run(_next, pieces) or b""
        headers = {
            b"content-type": b"application/octet-stream",
            b"content-length": str(file.bytes).encode(),
            b"content-disposition": b"attachment",
            b"x-content-type-options": b"nosniff",
        }
        start: Message = {"type": "http.response.start", "status": 200}
        await exchange.send({**start, "headers": list(headers.items())})
        while True:
            following = await self._run(_next, pieces)
            more = following is not None
            await exchange.send({"type": "http.response.body", "body": piece, "more_body": more})
            exchange.restart_reader()
            if following is None:
                return
            piece = following

    async def _create(self, data: bytes) -> dict[str, Any]:
        owner, shared = self._owner, self._shared
        body = json_object(data, BATCH_FIELDS)
        for name, value in body.items():
            BATCH_FIELDS[name].check(name, value)
        for name in ("input_file_id", "endpoint", "completion_window"):
            if name not in body:
                raise BadRequest(f"`{name}` must be {BATCH_FIELDS[name]}. Send that.")
        await self._run(shared.files.get, owner, body["input_file_id"])
        await self._run(shared.files.check_quota, owner)
        keep = body.get("output_expires_after", {}).get("seconds", shared.keep_seconds)
        state = await self._run(
            shared.batches.create,
            owner,
            self._key.id,
            endpoint=body["endpoint"],
            input_file_id=body["input_file_id"],
            keep_seconds=min(keep, shared.keep_seconds),
            metadata=body.get("metadata"),
        )
        shared.changed.set()
        return state.shown()


def _next(pieces: Iterator[bytes]) -> bytes | None:
    return next(pieces, None)


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
