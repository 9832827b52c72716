"""Threads for calls to the store, so that files and batches keep nobody else's waiting."""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from serving.errors import LimitReached

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """A few threads, and a bounded number of calls that wait for one."""

    def __init__(self, most: int, waiting: int) -> None:
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="batches")
        self._most = most + waiting
        self._calls = 0

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns, called in a thread; raises `LimitReached` if too many wait."""
        if self._calls >= self._most:
            raise LimitReached("Too many calls for files and batches wait for the store.", 1.0)
        self._calls += 1
        try:
            call = functools.partial(function, *args, **kwargs)
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        finally:
            self._calls -= 1
