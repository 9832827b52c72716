"""The lines of one batch that run together for a while."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from serving.batches.job import Job
from serving.batches.records import Batch

MAX_TRIES = 5
"""How often a line is tried whose answer is a passing fault of the server."""
MIN_REST_SECONDS = 1.0
_WAITS = ("registry_unavailable", "engine_not_attached", "shutting_down")
"""Codes of refusals that say nothing of the line: it is tried when the server can answer again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the gateway answered to one line."""

    status: int
    body: bytes
    retry_after: float = 0.0

    @property
    def must_wait(self) -> bool:
        """Whether no line of the batch would be answered now: a limit of the key is reached, or the
        server answers nobody."""
        return self.status == 429 or (self.status == 503 and self._code in _WAITS)

    @property
    def _code(self) -> Any:
        try:
            return (msgspec.json.decode(self.body, type=_Refusal).error or {}).get("code")
        except (ValueError, msgspec.MsgspecError):  # no error of the gateway
            return None


class _Refusal(msgspec.Struct):
    error: dict[str, Any] | None = None


Ask = Callable[[Batch, bytes], Awaitable[Answer]]
"""Has the gateway answer the body of one line, for the batch's key and endpoint."""


class Slice:
    """Lines of one batch, `at_once` of them at a time."""

    def __init__(self, job: Job, ask: Ask, at_once: int) -> None:
        self.rest = 0.0
        """Seconds that the owner's batches must rest, if no more lines can be answered now."""
        self._job, self._ask, self._at_once = job, ask, at_once
        self._stopped = False

    def stop(self) -> None:
        """Begin no more lines."""
        self._stopped = True

    async def run(self) -> None:
        """Run what is missing, the lines of one model after those of another: together they hold
        one of the engine's slots."""
        for lines in self._job.groups:
            pending = iter(lines)
            async with asyncio.TaskGroup() as group:
                for _ in range(self._at_once):
                    group.create_task(self._take(pending))
            if self._stopped:
                return

    async def _take(self, pending: Iterator[int]) -> None:
        while not self._stopped and (index := next(pending, None)) is not None:
            if not await self._run_line(index):
                self._stopped = True

    async def _run_line(self, index: int) -> bool:
        """Run one line; False if no more can be answered now."""
        refusal = self._job.refusal(index)
        if refusal is not None:
            await self._job.add(index, 400, refusal)
            return True
        body = self._job.body(index)
        for attempt in range(1, MAX_TRIES + 1):
            answer = await self._ask(self._job.batch, body)
            if answer.must_wait:
                self.rest = max(self.rest, answer.retry_after, MIN_REST_SECONDS)
                return False
            if answer.status != 503 or attempt == MAX_TRIES:
                await self._job.add(index, answer.status, answer.body)
                return True
            await asyncio.sleep(min(max(answer.retry_after, 1.0) * attempt, 30.0))
            if self._stopped:
                return False
        return True
