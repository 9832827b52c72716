"""Answers of models that pool, embeddings and labels: passed on whole, and none with NaN.

vLLM counts NaN in the logits of requests that write, and a pooled answer has none. So it is looked
for in the answer, and noted where the engine's statistics of other answers are.
"""

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.telemetry.verdicts import VERDICTS

NAN = b"Out of range float values"
"""In vLLM's error where a number is NaN or infinite, which JSON cannot hold."""


class Pooled:
    """vLLM's application, asked for one pooled answer."""

    def __init__(self, app: ASGIApp, finish: Callable[[bytes], bytes | None]) -> None:
        """finish: an answer as its caller gets it; None if it has NaN."""
        self._app = app
        self._finish = finish

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the answer on whole; one with NaN is noted under the request's id before its end."""
        start: Message = {}
        body = b""

        async def whole(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            body += message.get("body", b"")
            if message.get("more_body", False):
                return
            finished = self._finish(body) if start["status"] == 200 else body
            if finished is None or (start["status"] != 200 and NAN in body):
                note_nan(scope)
            finished = finished or body
            headers = [(n, v) for n, v in start.get("headers", ()) if n != b"content-length"]
            headers.append((b"content-length", str(len(finished)).encode()))
            await send({**start, "headers": headers})
            await send({"type": "http.response.body", "body": finished})

        try:
            await self._app(scope, receive, whole)
        except ValueError as error:
            if NAN in str(error).encode():
                note_nan(scope)
            raise


def note_nan(scope: Scope) -> None:
    """Note that the answer to a request as vLLM got it is corrupted."""
    request_id = dict(scope["headers"]).get(b"x-request-id", b"").decode()
    # With a prefix as vLLM writes one: an id may itself begin like a prefix.
    VERDICTS.note(f"pooled-{request_id}", corrupted=True)
