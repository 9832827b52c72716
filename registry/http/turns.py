"""Turns for what takes long, such as examining an upload: few at once, and of each key fewer.

Whatever computes in a thread slows down every other answer, and whatever waits for the store in one
of the threads that all routes share keeps it from them. Who waits for a turn holds no thread.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request

from registry.errors import Overloaded

WAITING = 100
"""Requests of one key that may wait for a turn."""

Kind = Literal["examine", "store"]
Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")


class Turns:
    """One kind of work. For one event loop."""

    def __init__(self, at_once: int, of_one: int, *, waiting: int = WAITING) -> None:
        """at_once: threads for the work; of_one: those of them that one key may have; waiting:
        requests of one key that may wait."""
        self._all = CapacityLimiter(at_once)
        self._of_one, self._waiting = of_one, waiting
        self._own: dict[str, CapacityLimiter] = {}

    async def take(
        self,
        request: Request,
        work: Callable[Asked, Answer],
        *given: Asked.args,
        **named: Asked.kwargs,
    ) -> Answer:
        """What `work` returns, called in a thread once it is the turn of the request's key; all
        callers without a key share theirs.

        Raises what `work` raises, and `Overloaded` if too many requests of the key wait, or if the
        caller left before its turn came.
        """
        key = getattr(request.state, "actor", "")
        own = self._own.setdefault(key, CapacityLimiter(self._of_one))
        if own.statistics().tasks_waiting >= self._waiting:
            raise Overloaded("Too many of your requests wait already. Repeat in a moment.")
        try:
            async with own:
                if await request.is_disconnected():
                    raise Overloaded("The caller left before its turn came.")
                return await to_thread.run_sync(partial(work, *given, **named), limiter=self._all)
        finally:
            if not own.borrowed_tokens and not own.statistics().tasks_waiting:
                self._own.pop(key, None)


async def in_turn(
    request: Request,
    kind: Kind,
    work: Callable[Asked, Answer],
    *given: Asked.args,
    **named: Asked.kwargs,
) -> Answer:
    """What `work` returns, in its turn. Raises as `Turns.take`.

    kind: "examine" for what may compute for seconds, "store" for what waits for the store.
    """
    turns: Turns = request.app.state.turns[kind]
    return await turns.take(request, work, *given, **named)
