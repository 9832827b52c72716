"""Requests of a shadowed alias: which are compared, what their callers got, and their copies."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.model.catalog import Version
from serving.faults import Prepare
from serving.inflight import Exchange
from serving.outcomes.reading import Recording
from serving.outcomes.shadows import ShadowName, is_chosen
from serving.request.headers import header
from serving.telemetry.verdicts import VERDICTS, Times

LAST = 1 << 30
"""The priority of a copy in the engine, which takes the lowest number first."""
EXPECTED = b"x-lorary-expected"
MAX_EXPECTED = 512
"""Characters of an expected answer; a longer one is not scored."""
DROPPED_FIELDS = frozenset(("stream", "stream_options", "logprobs", "top_logprobs"))


@dataclass(frozen=True, slots=True)
class Chosen:
    """A request of a shadowed alias, before its answer's id tells whether it is copied."""

    name: ShadowName
    share: float
    """Of the alias's requests that are compared, 0..1."""
    candidate: Version
    body: dict[str, Any]
    """As vLLM gets it for the caller."""
    size: int
    """Its bytes."""
    prepare: Prepare
    """Makes the candidate's request of a body."""
    expected: str | None
    """The answer that the caller expects, if it says so."""
    rank: int | None = None
    """The engine's rank that answers; None if there is one only, or if vLLM chooses."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A request whose caller has its answer, and which a candidate answers, too."""

    asked: Chosen
    app: ASGIApp
    """What answers it: vLLM."""
    given: Recording
    times: Times | None
    """The engine's, for the answer that the caller got."""

    @property
    def size(self) -> int:
        """Bytes of the body and of the answer that the caller got."""
        return self.asked.size + self.given.size


class Watch(AbstractContextManager["Watch"]):
    """One request, whose answer is kept if it is one of those that are compared."""

    def __init__(
        self,
        take: Callable[[Copy], None] | None = None,
        exchange: Exchange | None = None,
        chosen: Chosen | None = None,
    ) -> None:
        """take: has a copy answered. chosen: None if no shadow is concerned."""
        self._take, self._exchange, self._chosen = take, exchange, chosen
        self._id = ""
        self._copy: Callable[[Times | None], Copy] | None = None
        """Makes the copy, once the answer is recorded."""
        self._recording: Recording | None = None

    def through(self, app: ASGIApp) -> ASGIApp:
        """`app`, which is vLLM, its answer kept for a comparison where there shall be one."""
        chosen = self._chosen
        if chosen is None:
            return app

        async def recorded(scope: Scope, receive: Receive, send: Send) -> None:
            response_id = header(scope, b"x-request-id") or ""
            if self._id or not is_chosen(chosen.name, chosen.share, response_id):
                await app(scope, receive, send)
                return
            self._id = response_id
            recording = self._recording = Recording()
            self._copy = functools.partial(Copy, chosen, app, recording)
            VERDICTS.time(response_id)

            async def send_recorded(message: Message) -> None:
                recording.see(message)
                await send(message)

            await app(scope, receive, send_recorded)

        return recorded

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Have the request copied, if its caller got its whole answer."""
        if self._recording is None or self._copy is None or self._take is None:
            return
        times = VERDICTS.take_times(self._id)
        ended = self._exchange is None or self._exchange.reason is not None
        if error is None and not ended and self._recording.complete:
            self._take(self._copy(times))


def as_shadow(body: dict[str, Any], candidate: Version) -> dict[str, Any]:
    """The same request for one whole answer of `candidate`, behind everybody else's."""
    kept = {name: value for name, value in body.items() if name not in DROPPED_FIELDS}
    return {**kept, "model": str(candidate.ref), "priority": LAST}


def expected(scope: Scope) -> str | None:
    """The answer that the caller expects; None if it does not say, or says too much."""
    text = unquote(header(scope, EXPECTED) or "").strip()
    return text if 0 < len(text) <= MAX_EXPECTED else None
