"""One answer, from vLLM to its caller, in one pass.

A stream passes event by event as it comes; a whole answer is kept until it is complete. On the way
its first headers say which version answers, its pace is measured, its usage is read, and where the
request wants it, its confidence is added (`usage` and `confidence` in `serving.request`).

The end of each answer waits for the engine's statistics: one that the engine computed from NaN or
cut off ends with an error. Nothing that a fault emptied is answered 200.
"""

import time
from collections.abc import Iterator

from starlette.types import Message

from adapters.errors import LoraryError
from registry.model.catalog import Version
from registry.model.evidence import Engine
from serving.inflight import Exchange
from serving.outcomes.rollout import Pace
from serving.request.answers import is_stream
from serving.request.confidence import Judge
from serving.request.envelopes import is_anthropic, translated
from serving.request.routes import CHAT, ROUTES, Route
from serving.request.usage import Usage
from serving.telemetry.metrics import (
    FIRST_TOKEN,
    PROMPT_TOKENS,
    REQUESTS,
    SERIES,
    TIME_PER_TOKEN,
    TOKENS,
)
from serving.telemetry.verdicts import Verdict

_ERROR, _ANTHROPIC_ERROR = b'data: {"error"', b'data: {"type":"error"'
"""How vLLM begins an error inside a stream, whose status was sent long before. Inside an answer's
text the quotation marks are escaped."""


class Relay:
    """Passes one answer on. Labels hold only names that the registry resolved."""

    def __init__(
        self,
        exchange: Exchange,
        version: Version | None,
        base: str,
        usage: Usage,
        *,
        route: Route = ROUTES[CHAT],
        judge: Judge | None = None,
        engine: Engine | None = None,
    ) -> None:
        """version: what answers; None for the base model, whose name is `base`. judge: tells the
        answer's confidence. engine: whose fingerprint the answer carries."""
        self.status = 0
        """The answer's status; 0 while there is none."""
        self.usage = usage
        self.verdict: Verdict | None = None
        """What the engine's statistics say of the answer; None if they are not followed."""
        self._exchange = exchange
        self._judge = judge
        self._alone = judge is None
        self._end = route.end
        self._anthropic = is_anthropic(route.path)
        self._error = _ANTHROPIC_ERROR if self._anthropic else _ERROR
        self._began = time.perf_counter()
        self._first = 0.0
        self._streams = self._broken = False
        self._start: Message = {}
        self._kept = b""
        if version is None:
            self._signature = [(b"x-lorary-base", base.encode())]
            self._labels = ("", base, "")
        else:
            self._signature = [
                (b"x-lorary-adapter", str(version.ref).encode()),
                (b"x-lorary-digest", version.digest.encode()),
            ]
            self._labels = (version.domain, version.adapter, str(version.number))
        if engine is not None:
            self._signature.append((b"x-lorary-engine", engine.fingerprint.encode()))
        SERIES.touch(self._labels)

    @property
    def seconds(self) -> float:
        """Since the request reached the engine."""
        return time.perf_counter() - self._began

    @property
    def charge(self) -> int | None:
        """What the request is to be charged: nothing if it failed; None if nobody can say."""
        if self.usage.reported:
            return self.usage.tokens + self.usage.prompt_tokens
        return 0 if self.status >= 400 else None

    @property
    def failed(self) -> bool:
        """Whether the server's side failed."""
        return self.status >= 500 or self._broken

    @property
    def succeeded(self) -> bool:
        """Whether an answer was given."""
        return 200 <= self.status < 400 and not self._broken

    @property
    def pace(self) -> tuple[Pace | None, float]:
        """What was measured of the answer's pace, and the seconds."""
        if self._streams:
            return ("first_token", self._first - self._began) if self._first else (None, 0.0)
        tokens = self.usage.tokens
        return ("per_token", self.seconds / tokens) if tokens else (None, 0.0)

    async def send(self, message: Message) -> None:
        """Take vLLM's next message; pass on what may be passed on by now."""
        if message["type"] == "http.response.start":
            self._start = {**message, "headers": [*message.get("headers", ()), *self._signature]}
            self._streams = is_stream(message)
            if self._streams:
                await self._begin()
            return
        piece, more = message.get("body", b""), message.get("more_body", False)
        if not self._streams:
            self._kept += piece
            if not more and await self._is_sound():
                await self._send_whole()
            return
        if not self._first and piece:
            self._first = time.perf_counter()
            FIRST_TOKEN.labels(*self._labels).observe(self._first - self._began)
        if not more or self._end in piece:
            await self._is_sound()
        if self.verdict is not None and self.verdict.failed:
            return
        if self._alone and not self._kept and piece.find(b"\n\n") == len(piece) - 2 >= 0:
            event = self.usage.read_event(piece[:-2])  # one whole event, as vLLM sends nearly all
            body = b"" if event is None else event + b"\n\n"
        else:
            body = self._pass_on(piece, more=more)
        if self._error in body:
            self._broken = True
        if body or not more:
            await self._exchange.send(
                {"type": "http.response.body", "body": body, "more_body": more}
            )

    async def refuse(self, error: LoraryError) -> None:
        """The answer is none: raises `error`, or makes it the last event of a stream."""
        self._broken = True
        await self._exchange.conclude(error)

    def end(self) -> None:
        """Count the tokens, once the answer is complete or broken off."""
        tokens = self.usage.tokens
        if self._first and tokens > 1:
            seconds = time.perf_counter() - self._first
            TIME_PER_TOKEN.labels(*self._labels).observe(seconds / (tokens - 1))
        TOKENS.labels(*self._labels).inc(tokens)
        PROMPT_TOKENS.labels(*self._labels).inc(self.usage.prompt_tokens)
        SERIES.touch(self._labels)  # it may have been forgotten since, and has series again

    async def _begin(self) -> None:
        self.status = self._start["status"]
        REQUESTS.labels(*self._labels, str(self.status)).inc()
        await self._exchange.send(self._start)

    async def _is_sound(self) -> bool:
        """Whether the answer may end: waits for the engine's statistics, unless it is an error,
        which made no tokens."""
        if self.verdict is None:
            return True
        if self._start["status"] == 200:
            await self.verdict.complete()
        return not self.verdict.failed

    async def _send_whole(self) -> None:
        self.usage.read_whole(self._kept)
        kept = self._kept
        if self._judge is not None and self._start["status"] == 200:
            self._kept = self._judge.whole(kept)
        elif self._anthropic and self._start["status"] >= 400:
            self._kept = translated(self._start["status"], kept)
        if self._kept is not kept:
            headers = [(n, v) for n, v in self._start["headers"] if n != b"content-length"]
            headers.append((b"content-length", str(len(self._kept)).encode()))
            self._start["headers"] = headers
        await self._begin()
        await self._exchange.send({"type": "http.response.body", "body": self._kept})

    def _pass_on(self, piece: bytes, *, more: bool) -> bytes:
        """What to send of the events that are complete by now; at the end also what is not."""
        *events, self._kept = (self._kept + piece).split(b"\n\n")
        passed = b"".join(self._read(events))
        if not more and self._judge is None:
            passed, self._kept = passed + self._kept, b""
        return passed

    def _read(self, events: list[bytes]) -> Iterator[bytes]:
        for event in events:
            shown = self.usage.read_event(event)
            if shown is None:
                continue
            if self._judge is None:
                yield shown + b"\n\n"
            else:
                yield from self._judge.event(shown)
