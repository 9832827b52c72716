"""`/v1/messages/count_tokens`: how long a prompt is, without an answer.

vLLM counts in the API process: the engine takes no part. Tokens are the base model's, whichever
adapter is named.
"""

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.generation import admitted
from serving.replica import Replica
from serving.request.answers import answer
from serving.request.body import parse_body, replay
from serving.request.bounds import InvalidField
from serving.request.envelopes import translated
from serving.request.headers import declared_length, inner
from serving.request.messages import COUNTED_FIELDS
from serving.resolve import identify, resolve

COUNT_TOKENS = "/v1/messages/count_tokens"


async def count_tokens(
    replica: Replica, app: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    """Have `app`, which is vLLM, count; it counts as a request of the key."""
    replica.shutdown.check()
    catalog, key = await identify(replica, scope)
    settings = replica.settings
    async with admitted(replica, scope, key, receive, send, settings.request_seconds) as (
        exchange,
        _,
    ):
        data = await exchange.read(declared_length(scope), settings.max_body_bytes)
        body = parse_body(data, COUNTED_FIELDS, settings.max_model_len)
        if "messages" not in body:
            raise InvalidField("messages", COUNTED_FIELDS["messages"])
        await resolve(replica, catalog, key, [body["model"]])
        body["model"] = settings.base_name
        data = msgspec.json.encode(body)
        status, pieces = 0, list[bytes]()

        async def keep(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            pieces.append(message.get("body", b""))

        length = (b"content-length", str(len(data)).encode())
        passed = inner(scope, COUNT_TOKENS, b"", length)
        await app(passed, replay(data, exchange.receiver()), keep)
        told = b"".join(pieces)
        await answer(exchange.send, status, told if status < 400 else translated(status, told))
