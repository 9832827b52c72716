"""Fairness among keys whose requests and hints bring versions into the engine.

Versions are downloaded and loaded a few at a time, first come, first served. Here no key gets ahead
of another by asking for many: of each key only `most` versions are on their way for its requests,
and its other requests wait; hints are loaded one at a time for everybody, round robin by key. So a
request waits for at most `most` loads of each other key, and for one hint.
"""

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from adapters.errors import LoraryError
from registry.model.catalog import Version
from serving.errors import TooManyColdLoads

MAX_OUTSTANDING = 32
"""Hints of one key that may wait."""


@dataclass
class Line:
    """One key's versions on their way, with how many requests want each."""

    coming: Counter[str] = field(default_factory=Counter)
    users: int = 0
    freed: asyncio.Event = field(default_factory=asyncio.Event)


class ColdLoads:
    """Bounds the versions that one key's requests bring up at once. Use it from one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lines: dict[str, Line] = {}

    @asynccontextmanager
    async def enter(self, key: str, version: Version) -> AsyncIterator[None]:
        """Bring `version` up for a request of `key` while the context lasts, once it may."""
        name = str(version.ref)
        line = self._lines.setdefault(key, Line())
        line.users += 1
        try:
            while name not in line.coming and len(line.coming) >= self._most:
                await line.freed.wait()
            line.coming[name] += 1
            try:
                yield
            finally:
                line.coming[name] -= 1
                if not line.coming[name]:
                    del line.coming[name]
                    line.freed.set()
                    line.freed = asyncio.Event()
        finally:
            line.users -= 1
            if not line.users:
                del self._lines[key]


class Hints:
    """Versions that callers will soon ask for. Use it from one event loop."""

    def __init__(self, warm: Callable[[Version], Awaitable[None]]) -> None:
        """warm: brings one version into the engine."""
        self._warm = warm
        self._lines: OrderedDict[str, OrderedDict[str, Version]] = OrderedDict()
        self._working: asyncio.Task[None] | None = None

    def add(self, key: str, versions: Iterable[Version]) -> None:
        """Bring `versions` up in the background. That one fails shows when it is asked for.

        Raises `TooManyColdLoads`, and takes none of them, when more than `MAX_OUTSTANDING` of the
        key would wait.
        """
        line = self._lines.get(key, OrderedDict())
        together = OrderedDict([*line.items(), *((str(v.ref), v) for v in versions)])
        if len(together) > MAX_OUTSTANDING:
            raise TooManyColdLoads(
                f"{len(line)} hints of this key wait already; at most {MAX_OUTSTANDING} may. Retry "
                "in a second."
            )
        if not together:
            return
        self._lines[key] = together
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self._lines:
            key, line = self._lines.popitem(last=False)
            _, version = line.popitem(last=False)
            if line:
                self._lines[key] = line  # behind the other keys
            with contextlib.suppress(LoraryError):
                await self._warm(version)
