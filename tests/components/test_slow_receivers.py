"""Receivers that never answer, and what they cost the webhooks of others."""

import asyncio
import logging
import threading
import time
from asyncio import StreamReader, StreamWriter

import pytest
from fastapi.testclient import TestClient

from registry.http import create_app
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.model.webhooks import AddWebhook
from registry.notify.delivery import IN_FLIGHT, PER_WEBHOOK, Deliverer
from registry.notify.feed import Feed
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from tests.support.catalogs import publish_bytes

HANGING = IN_FLIGHT // PER_WEBHOOK + 1
"""Webhooks that together could hold every place."""


class Receivers:
    """One that takes requests and never answers, and one that answers at once."""

    def __init__(self) -> None:
        self._asked = self.given_up = 0
        self.busy, self.arrived = asyncio.Event(), asyncio.Event()

    async def hang(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._asked += 1
        if self._asked == HANGING:
            self.busy.set()
        await reader.read(-1)  # until the registry gives up
        self.given_up += 1
        writer.close()

    async def answer(self, reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        self.arrived.set()


def test_receivers_that_hang_keep_no_other_webhook_waiting(local_store: LocalStore) -> None:
    operator = Registry.create(local_store, name="hospital", key_name="operator")
    registry = Registry(local_store)
    for domain in ("medical", "legal"):
        registry.execute(CreateDomain(domain, Policy(guarded=())), operator.id)

    def publish(domain: str, seed: int) -> None:
        publish_bytes(registry, operator.id, domain, f"a{seed}", seed)

    def hook(server: asyncio.Server, name: str, domain: str) -> None:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/{name}"
        registry.execute(AddWebhook(name, url, domain), operator.id)

    async def deliver() -> None:
        receivers = Receivers()
        slow = await asyncio.start_server(receivers.hang, "127.0.0.1", 0)
        quick = await asyncio.start_server(receivers.answer, "127.0.0.1", 0)
        for number in range(HANGING):
            hook(slow, f"slow{number}", "medical")
        hook(quick, "quick", "legal")
        for seed in range(PER_WEBHOOK):
            publish("medical", seed)
        settings = RegistrySettings(webhook_secret="s" * 32, webhook_hosts="127.0.0.1")  # type: ignore[arg-type]
        delivering = asyncio.create_task(Deliverer(Feed(registry), settings).run())
        await receivers.busy.wait()
        await asyncio.to_thread(publish, "legal", PER_WEBHOOK)
        await receivers.arrived.wait()
        assert receivers.given_up == 0
        delivering.cancel()
        await asyncio.gather(delivering, return_exceptions=True)
        slow.close()
        quick.close()

    try:
        asyncio.run(deliver())
    finally:
        registry.close()


def test_what_receivers_send_does_not_keep_the_service_busy(
    local_store: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    """They may send informational responses without an end: that costs an event loop its time."""
    operator = Registry.create(local_store, name="hospital", key_name="operator")
    settings = RegistrySettings(store=local_store.url, webhook_secret="s" * 32)  # type: ignore[arg-type]
    caplog.set_level(logging.INFO, "lorary.registry")
    app = create_app(settings)
    registry = app.state.registry
    registry.execute(CreateDomain("medical"), operator.id)
    registry.execute(AddWebhook("w1", "https://nowhere.invalid/"), operator.id)
    with TestClient(app) as service:
        publish_bytes(registry, operator.id, "medical", "coder", 1)
        while not (failed := [r for r in caplog.records if "not delivered" in r.msg]):
            time.sleep(0.1)
        assert service.portal is not None
        assert failed[0].thread != service.portal.call(threading.get_ident)
    assert "webhooks" not in {thread.name for thread in threading.enumerate()}
