"""Which answers the engine computed from NaN logits or cut off, as its own statistics report it.

vLLM counts NaN in each request's logits (`VLLM_COMPUTE_NANS_IN_LOGITS`) and marks the statistics
of the finished request. `serving.engine_metrics` receives those in the API process, before the
answer's last piece is sent, and notes them here by the request id that the gateway chose.
"""

import asyncio
import contextlib
import re
from collections.abc import Iterator
from typing import NamedTuple

_PREFIX = re.compile(r"^[a-z]+[-_]")
"""chatcmpl- and the like, which vLLM writes before the id that it is given."""
_NUMBER = re.compile(r"[-_]\d+$")
"""vLLM numbers a completion's prompts, cmpl-ID-0, and a response's turns, resp_ID_0."""
WAIT_SECONDS = 1.0
"""How long a complete answer waits for its statistics, which normally are there before it is."""


class Times(NamedTuple):
    """How long the engine worked at one sequence, its waiting left out, in seconds."""

    first: float
    """To the first token."""
    each: float
    """The mean for each further token."""
    cached: int
    """Tokens of the prompt that were in the prefix cache."""


class Verdict:
    """What the engine reports about one request's sequences."""

    def __init__(self, sequences: int) -> None:
        """sequences: how many will be reported."""
        self.corrupted = False
        """Whether a sequence had NaN in its logits."""
        self.aborted = False
        """Whether the engine ended a sequence by itself, complete or not."""
        self._missing = sequences
        self._complete = asyncio.Event()
        if not sequences:
            self._complete.set()

    @property
    def failed(self) -> bool:
        """Whether the answer must not be given."""
        return self.corrupted or self.aborted

    def note(self, *, corrupted: bool, aborted: bool = False) -> None:
        """One sequence has finished."""
        self.corrupted = self.corrupted or corrupted
        self.aborted = self.aborted or aborted
        self._missing -= 1
        if self.failed or self._missing <= 0:
            self._complete.set()

    async def complete(self) -> None:
        """Wait until every sequence was reported, for a bounded time."""
        if self._complete.is_set():
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._complete.wait(), WAIT_SECONDS)


class Verdicts:
    """The requests under way. Use it from one event loop."""

    def __init__(self) -> None:
        self.reported = False
        """Whether an engine reports here at all; without one nobody waits."""
        self._running: dict[str, Verdict] = {}
        self._timed: dict[str, Times | None] = {}

    def time(self, request_id: str) -> None:
        """Keep the times of a request whose answer begins, until they are taken."""
        self._timed[request_id] = None

    def take_times(self, request_id: str) -> Times | None:
        """The times of a request that `time` was called for; None if the engine reported none."""
        return self._timed.pop(request_id, None)

    @contextlib.contextmanager
    def follow(self, request_id: str, sequences: int = 1) -> Iterator[Verdict]:
        """The verdict on a request while the context lasts. request_id: without vLLM's prefix."""
        verdict = self._running[request_id] = Verdict(sequences if self.reported else 0)
        try:
            yield verdict
        finally:
            del self._running[request_id]

    def note(
        self,
        request_id: str | None,
        *,
        corrupted: bool,
        aborted: bool = False,
        times: Times | None = None,
    ) -> None:
        """A sequence of vLLM's request `request_id` has finished.

        times: None for one that was preempted and computed again.
        """
        name = _PREFIX.sub("", request_id or "")
        if self._timed:
            whole = name if name in self._timed else _NUMBER.sub("", name)
            if whole in self._timed:
                self._timed[whole] = times
        verdict = self._running.get(name) or self._running.get(_NUMBER.sub("", name))
        if verdict is not None:
            verdict.note(corrupted=corrupted, aborted=aborted)


VERDICTS = Verdicts()
"""Those of this process: vLLM makes its statistics loggers itself."""
