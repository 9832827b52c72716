"""What follows when the engine computed an answer from NaN: clean, find the cause, refuse it.

The answer's own adapter may be the cause or a victim, which got a block of the KV cache that
another request had filled with NaN. So the engine is cleaned and the request is repeated, cut to a
few tokens. NaN again, twice, each time in a clean engine, proves that the adapter is the cause.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Scope

from adapters.errors import LoraryError
from serving.errors import AdapterFaulty, EngineFault
from serving.inflight import Exchange, InFlight
from serving.request.body import replay, sequences
from serving.request.routes import ROUTES
from serving.telemetry import access_log
from serving.telemetry.metrics import CORRUPTED
from serving.telemetry.verdicts import VERDICTS, Verdict
from serving.tiers.trial import Trials

REPEAT_TOKENS = 16
"""Tokens of a repeated request."""
REPEAT_SECONDS = 30.0
REPEATS = 2
RELEASE_SECONDS = 0.05
"""How long requests that were ended have until vLLM aborts them, a few passes of the event loop."""
MAX_WAITING = 8
"""Answers that may wait for their cause to be found; with more, the engine is only cleaned."""
IN_TRAFFIC = "its logits were not finite numbers for a request, and again when it was repeated"

Prepare = Callable[[dict[str, Any]], tuple[str, Scope, bytes]]
"""Makes of a body what vLLM gets: the request's id, the scope and the bytes."""
Repeat = Callable[[], Awaitable[bool]]
"""Runs a request once more; whether its logits had NaN again."""


class Receiver(Protocol):
    """What takes an answer."""

    verdict: Verdict | None
    """What the engine's statistics say of it; whoever takes the end of an answer waits for it."""

    async def send(self, message: Message) -> None:
        """Take vLLM's next message."""

    async def refuse(self, error: LoraryError) -> None:
        """The answer is none; may raise `error`."""


class Faults:
    """The faulty answers of one replica. Use it from one event loop."""

    def __init__(self, trials: Trials, inflight: InFlight) -> None:
        self.trials = trials
        self._inflight = inflight
        self._one = asyncio.Lock()
        self._waiting = 0

    async def relay(
        self,
        app: ASGIApp,
        prepare: Prepare,
        body: dict[str, Any],
        exchange: Exchange,
        relay: Receiver,
    ) -> None:
        """Have vLLM answer `body` as the request `exchange`, through `relay`; an answer made of NaN
        becomes an error.

        Raises `AdapterFaulty` or `EngineFault` if nothing was sent yet; a stream gets the error as
        its last event.
        """
        self.trials.recovery.check()
        request_id, scope, data = prepare(body)
        with VERDICTS.follow(request_id, sequences(body)) as verdict:
            relay.verdict = verdict
            try:
                await app(scope, replay(data, exchange.receiver()), relay.send)
            except Exception:
                if not verdict.failed:  # NaN among log-probabilities cannot be written as JSON
                    raise
        if not verdict.failed:
            return
        if not verdict.corrupted:
            await relay.refuse(EngineFault())
            return

        async def repeat() -> bool:
            return await _repeat(app, prepare, shortened(body, ROUTES[scope["path"]].limit))

        await relay.refuse(await self._explain(exchange, repeat))

    async def _explain(self, exchange: Exchange, repeat: Repeat) -> LoraryError:
        """The error for an answer that had NaN; by then the engine is clean again."""
        version = exchange.version
        CORRUPTED.inc()
        access_log.write("nan_logits", model=None if version is None else str(version.ref))
        recovery = self.trials.recovery
        try:
            await recovery.clean()
            if version is None or self._waiting >= MAX_WAITING:
                return EngineFault()
            self._waiting += 1
            try:
                async with self._one:
                    self.trials.check(version)
                    for _ in range(REPEATS):
                        async with asyncio.timeout(REPEAT_SECONDS):
                            if not await repeat():
                                return EngineFault()
                        await recovery.clean(test=False)
                    self.trials.condemn(version, IN_TRAFFIC)
                    faulty = AdapterFaulty(str(version.ref), IN_TRAFFIC)
                    self._inflight.end_version(exchange, faulty)
                    await asyncio.sleep(RELEASE_SECONDS)
                    await recovery.clean(test=False)
                    return faulty
            finally:
                self._waiting -= 1
        except LoraryError as error:
            return error
        except TimeoutError:
            pass
        return EngineFault()


async def _repeat(app: ASGIApp, prepare: Prepare, body: dict[str, Any]) -> bool:
    request_id, scope, data = prepare(body)
    with VERDICTS.follow(request_id) as verdict:
        with contextlib.suppress(Exception):  # whatever became of it, its logits are the question
            await app(scope, replay(data, _never), _ignore)
        return verdict.corrupted


async def _never() -> Message:
    await asyncio.sleep(REPEAT_SECONDS)
    return {"type": "http.disconnect"}


async def _ignore(_message: Message) -> None:
    pass


def shortened(body: dict[str, Any], limit: str | None) -> dict[str, Any]:
    """The same request for one short, whole answer. limit: the field that bounds its tokens."""
    dropped = {"stream", "stream_options", "n", "best_of", "min_tokens", "max_tokens",
               "max_completion_tokens", "logprobs", "top_logprobs"}  # fmt: skip
    kept = {name: value for name, value in body.items() if name not in dropped}
    return kept if limit is None else kept | {limit: REPEAT_TOKENS}
