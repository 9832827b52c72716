"""The lines of batches as requests of the key that made the batch, through the gateway itself.

They are resolved, authorised, bounded, charged and relayed there as all requests are, with the
engine's lowest priority.
"""

import asyncio
from typing import Any

from starlette.types import ASGIApp, Message, Scope

from registry.errors import Unauthenticated
from serving.batches.deployment import Deployment
from serving.batches.records import Batch
from serving.batches.slices import Answer, Ask
from serving.batches.worker import Worker
from serving.errors import RegistryUnavailable
from serving.replica import Replica
from serving.request.headers import BATCH_KEY
from serving.resolve import key_of_batch


def worker(replica: Replica, shared: Deployment, ask: Ask) -> Worker:
    """What runs the deployment's batches on this replica."""

    def refused(batch: Batch) -> str:
        try:
            key_of_batch(replica.catalog, batch.key)
        except Unauthenticated as error:
            return error.message
        except RegistryUnavailable:
            pass
        return ""

    return Worker(
        shared.batches,
        shared.files,
        ask,
        at_once=replica.lines_at_once,
        line_bytes=replica.settings.max_body_bytes,
        keep_seconds=shared.keep_seconds,
        refused=refused,
        crowded=lambda: replica.is_crowded,
        closing=lambda: replica.shutdown.announced,
        changed=shared.changed,
    )


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
            BATCH_KEY: batch.key,
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
