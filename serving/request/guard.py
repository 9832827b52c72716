"""Holds back the end of each answer until the engine's statistics say that it is sound.

A whole answer is held back altogether. A stream passes as it comes, but for its end: one that the
engine computed from NaN or cut off ends with an error event. Nothing that a fault emptied is
answered 200.
"""

import json

from starlette.types import Message, Send

from adapters.errors import LoraryError
from registry.envelope import body_of
from serving.telemetry.metrics import REFUSALS
from serving.telemetry.verdicts import Verdict

_ENDS = (b"data: [DONE]", b"event: response.completed")
"""What begins the last event of a stream."""


class Guard:
    """Stands before one answer."""

    def __init__(self, send: Send, verdict: Verdict) -> None:
        self.begun = False
        """Whether part of the answer was passed on."""
        self._send = send
        self._verdict = verdict
        self._held: list[Message] = []
        self._streams = self._sound = False

    async def send(self, message: Message) -> None:
        """Pass `message` on, now or with the answer's end, unless the answer is corrupted."""
        if message["type"] == "http.response.start":
            kind = dict(message.get("headers", ())).get(b"content-type", b"")
            self._streams = kind.startswith(b"text/event-stream")
            self._sound = message["status"] != 200  # an error made no tokens to wait for
        body = message.get("body", b"")
        ends = message["type"] == "http.response.body" and (
            not message.get("more_body", False) or any(end in body for end in _ENDS)
        )
        if ends and not self._sound:
            await self._verdict.complete()
        if self._verdict.failed:
            return
        self._held.append(message)
        if self._streams or ends:
            held, self._held = self._held, []
            for one in held:
                self.begun = True
                await self._send(one)

    async def refuse(self, error: LoraryError) -> None:
        """Tell the caller: raises `error`, or makes it the last event of a stream."""
        if not self.begun:
            raise error
        REFUSALS.labels(error.code).inc()
        event = b"data: " + json.dumps(body_of(error)).encode() + b"\n\n"
        await self._send({"type": "http.response.body", "body": event})
