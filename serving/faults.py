"""Answers that the engine computed from NaN: clean the engine, find the cause, refuse the adapter.

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
"""Tokens that a repeated request generates at most."""
REPEAT_SECONDS = 30.0
"""How long one repetition may take; then the cause stays unknown."""
REPEATS = 2
"""Repetitions that must all have NaN before the adapter is the cause."""
RELEASE_SECONDS = 0.05
"""How long requests that were ended have until vLLM aborts them, a few passes of the event loop."""
MAX_WAITING = 8
"""Answers that may wait for their cause to be found; with more, the engine is only cleaned."""
IN_TRAFFIC = "its logits were not finite numbers for a request, and again when it was repeated"

Prepare = Callable[[dict[str, Any]], tuple[str, Scope, bytes]]
"""Makes vLLM's request of a body: its id, without vLLM's prefix, the scope and the body's bytes."""
Repeat = Callable[[], Awaitable[bool]]
"""Runs a request once more and returns whether its logits had NaN again."""


class Receiver(Protocol):
    """Takes the answer to one request, message by message."""

    verdict: Verdict | None
    """What the engine's statistics say of the answer; set before its first message. `send` waits
    for it with the last one."""

    async def send(self, message: Message) -> None:
        """Take vLLM's next message."""

    async def refuse(self, error: LoraryError) -> None:
        """End the answer with `error`: raise it, or send it as the last event of a stream."""


class Faults:
    """Relays a replica's answers and handles faulty ones. Use it from one event loop."""

    def __init__(self, trials: Trials, inflight: InFlight) -> None:
        """trials: quarantines faulty versions. inflight: the requests, which end with them."""
        self.trials = trials
        self._inflight = inflight
        self._finding_cause = asyncio.Lock()
        self._waiting = 0

    async def relay(
        self,
        app: ASGIApp,
        prepare: Prepare,
        body: dict[str, Any],
        exchange: Exchange,
        receiver: Receiver,
    ) -> None:
        """Have `app`, which is vLLM, answer `body`; an answer computed from NaN becomes an error.

        prepare: makes vLLM's request of a body. exchange: the request that is answered, which may
        end it. receiver: gets the answer.
        Raises what `receiver.refuse` raises: `AdapterFaulty` or `EngineFault` if nothing was sent
        yet; and `EngineFault` while the engine cannot be cleaned.
        """
        self.trials.recovery.check()
        request_id, scope, data = prepare(body)
        with VERDICTS.follow(request_id, sequences(body)) as verdict:
            receiver.verdict = verdict
            try:
                await app(scope, replay(data, exchange.receiver()), receiver.send)
            except Exception:
                if not verdict.failed:  # NaN among log-probabilities cannot be written as JSON
                    raise
        if not verdict.failed:
            return
        if not verdict.corrupted:
            await receiver.refuse(EngineFault())
            return

        async def repeat() -> bool:
            return await _repeat(app, prepare, shortened(body, ROUTES[scope["path"]].limit))

        await receiver.refuse(await self._explain(exchange, repeat))

    async def _explain(self, exchange: Exchange, repeat: Repeat) -> LoraryError:
        """Clean the engine, find the cause, and return the error for an answer that had NaN."""
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
                async with self._finding_cause:
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
        with contextlib.suppress(Exception):  # only its logits matter, however it ended
            await app(scope, replay(data, _disconnects_late), _ignore)
        return verdict.corrupted


async def _disconnects_late() -> Message:
    await asyncio.sleep(REPEAT_SECONDS)
    return {"type": "http.disconnect"}


async def _ignore(_message: Message) -> None:
    pass


def shortened(body: dict[str, Any], limit: str | None) -> dict[str, Any]:
    """The same request for one short answer that is not streamed.

    limit: the field of its route that bounds the answer's tokens; None if it has none.
    """
    dropped = {"stream", "stream_options", "n", "best_of", "min_tokens", "max_tokens",
               "max_completion_tokens", "logprobs", "top_logprobs"}  # fmt: skip
    kept = {name: value for name, value in body.items() if name not in dropped}
    return kept if limit is None else kept | {limit: REPEAT_TOKENS}
