"""The same verbs for asynchronous programs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import ParamSpec, TypeVar

from registry.client.verbs import Json, RegistryClient

P = ParamSpec("P")
T = TypeVar("T")


def _awaitable(verb: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """A verb of `RegistryClient` that runs in a thread: it moves files as much as it waits."""

    async def call(*arguments: P.args, **named: P.kwargs) -> T:
        return await asyncio.to_thread(verb, *arguments, **named)

    return call


class AsyncRegistryClient:
    """One registry, one key, every verb of `RegistryClient` to be awaited.

    async with AsyncRegistryClient("http://127.0.0.1:8100", key) as registry:
        version = await registry.resolve("medical/icd10-coder")
    """

    def __init__(self, url: str, key: str, *, timeout: float = 60.0) -> None:
        self._client = client = RegistryClient(url, key, timeout=timeout)
        self.call = _awaitable(client.call)
        self.execute = _awaitable(client.execute)
        self.push = _awaitable(client.push)
        self.pull = _awaitable(client.pull)
        self.resolve = _awaitable(client.resolve)
        self.requirements = _awaitable(client.requirements)
        self.record_evaluation = _awaitable(client.record_evaluation)
        self.report = _awaitable(client.report)
        self.adapters = _awaitable(client.adapters)
        self.adapter = _awaitable(client.adapter)
        self.domains = _awaitable(client.domains)
        self.domain = _awaitable(client.domain)
        self.change_policy = _awaitable(client.change_policy)
        self.tasks = _awaitable(client.tasks)
        self.task = _awaitable(client.task)
        self.push_task = _awaitable(client.push_task)
        self.pull_task = _awaitable(client.pull_task)
        self.bases = _awaitable(client.bases)
        self.add_base = _awaitable(client.add_base)
        self.keys = _awaitable(client.keys)
        self.issue_key = _awaitable(client.issue_key)
        self.open_review = _awaitable(client.open_review)
        self.reviews = _awaitable(client.reviews)
        self.review = _awaitable(client.review)
        self.next_item = _awaitable(client.next_item)
        self.judge = _awaitable(client.judge)
        self.export_review = _awaitable(client.export_review)
        self.webhooks = _awaitable(client.webhooks)
        self.add_webhook = _awaitable(client.add_webhook)
        self.dead_letters = _awaitable(client.dead_letters)

    async def __aenter__(self) -> "AsyncRegistryClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self._client.close)

    async def log(self, after: int = 0) -> list[Json]:
        """Every commit after `after`."""
        return await asyncio.to_thread(lambda: list(self._client.log(after)))

    async def events(self, after: str = "0") -> list[Json]:
        """Every public event after a cursor."""
        return await asyncio.to_thread(lambda: list(self._client.events(after)))

    async def follow_events(self, after: str = "0") -> AsyncIterator[Json]:
        """Every public event after a cursor, and those that come, as they come."""
        events = self._client.follow_events(after)
        while (event := await asyncio.to_thread(next, events, None)) is not None:
            yield event
