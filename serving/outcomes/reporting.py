"""What a replica reports to the registry's service: ratings, and candidates that crossed a bound.

A replica reads the bucket by itself, but writes nothing into it: it asks the service, with a key
that has the role `serve` and no other. Its own threads wait for the service, so that one that hangs
holds up nothing else.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from registry.client import RegistryClient
from registry.errors import StoreUnavailable, Unauthenticated
from registry.model.access import Secret, authenticate
from registry.model.base import Command
from registry.model.catalog import Catalog
from registry.times import utc_now
from serving.errors import CannotServe, FeedbackDisabled, LimitReached

TIMEOUT_SECONDS = 10.0
MAX_WAITING = 100
"""Reports under way at once, each with a thread and a connection: the registry writes those that
come together in one commit, and answers then."""


class Reports:
    """The way to the registry's service. Use it from one event loop at a time."""

    def __init__(self, registry_url: str, key: str) -> None:
        self._client = RegistryClient(registry_url, key, timeout=TIMEOUT_SECONDS) if key else None
        self._threads = ThreadPoolExecutor(MAX_WAITING, thread_name_prefix="reports")
        self._waiting = 0

    @property
    def possible(self) -> bool:
        """Whether there is a key to report with."""
        return self._client is not None

    async def send(self, command: Command) -> dict[str, Any]:
        """Give the registry a command, and wait for its answer.

        Raises what the command raises, `StoreUnavailable` where no registry answers,
        `FeedbackDisabled` without a key, `LimitReached` for ratings; an urgent command waits for a
        thread.
        """
        if self._client is None:
            raise FeedbackDisabled(
                "This server reports nothing to its registry. Its operator sets LORARY_SERVING_KEY."
            )
        if self._waiting >= MAX_WAITING and not command.urgent:
            raise LimitReached(f"{self._waiting} reports wait for the registry already.", 1.0)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self._client.execute, command
            )
        except (ValueError, httpx.HTTPError, httpx.InvalidURL) as error:
            raise StoreUnavailable(
                f"What LORARY_REGISTRY_URL names answers as no registry does ({error}). Set it."
            ) from error
        finally:
            self._waiting -= 1


def check_serving_key(text: str, catalog: Catalog) -> None:
    """Raises `CannotServe` for a key that could report nothing; having none is fine."""
    if not text:
        return
    try:
        key = authenticate(catalog, Secret.parse(text), utc_now())
    except Unauthenticated as error:
        raise CannotServe(f"LORARY_SERVING_KEY opens nothing: {error.message}") from error
    if not any(grant.role == "serve" for grant in key.grants):
        raise CannotServe(
            f"The key {key.id} of LORARY_SERVING_KEY has no role serve. "
            "Issue one: lorary key issue replicas --grant serve:*"
        )
