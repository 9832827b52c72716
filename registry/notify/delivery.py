"""Delivers public events to webhooks: at least once, in order in each lane, by one process.

What was delivered is saved about once a second, so that after a crash only deliveries since then
are repeated. What waits is read from the log again, which holds the events themselves.
"""

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from adapters.errors import LoraryError
from registry.metrics import DEAD_LETTERS, DELIVERIES, LAG
from registry.model.access import ANY_DOMAIN
from registry.model.catalog import Catalog, Webhook
from registry.notify.cloudevents import Position, PublicEvent
from registry.notify.feed import Feed
from registry.notify.lease import Lease
from registry.notify.progress import MAX_WAITING, Delivery, Progress
from registry.notify.sending import Sender
from registry.notify.signature import headers, secret_of
from registry.settings import RegistrySettings

logger = logging.getLogger("lorary.registry")
TICK = 1.0
"""Seconds between looks at the log while this process delivers."""
LOOK = 5.0
"""Seconds between looks at the process that delivers."""
PATIENCE = 3.0
"""Seconds that in-flight requests get when the process ends."""
PER_WEBHOOK, IN_FLIGHT = 8, 64
"""Requests at once, the latter at least one for each of `MAX_WEBHOOKS`."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    hook: str
    delivery: Delivery


class Deliverer:
    """The deliveries of one registry process. For one event loop."""

    def __init__(self, feed: Feed, settings: RegistrySettings) -> None:
        self._feed, self._registry = feed, feed.registry
        self._secrets = settings.webhook_secrets
        self._give_up = settings.webhook_give_up_hours * 3600
        self._sender = Sender(settings.allowed_webhook_hosts)
        self._lease = Lease(feed.registry.store)
        self._hooks: dict[str, Progress] = {}
        self._saved: dict[str, Progress] = {}
        self._adopted = False
        """Whether `_hooks` goes on from what the lease held."""
        self._attempts: dict[asyncio.Task[str | None], _Attempt] = {}

    async def run(self) -> None:
        """Deliver until cancelled. Then another process can take over at once."""
        try:
            while True:
                try:
                    await self._step()
                except LoraryError as error:
                    logger.warning("webhooks: %s", error.message)
                except Exception:
                    logger.exception("webhooks: a step failed")
                await self._settle_for(TICK if self._lease.is_held else LOOK)
        finally:
            if self._attempts:
                done, _ = await asyncio.wait(self._attempts, timeout=PATIENCE)
                self._settle_all(done)
            await self._stop()
            if self._adopted:
                with contextlib.suppress(LoraryError):
                    await asyncio.to_thread(self._lease.save, self._hooks, released=True)
            await self._sender.close()

    async def _step(self) -> None:
        """Look at the log, queue what is new, send what is due, save."""
        catalog = await asyncio.to_thread(self._registry.refresh)
        if not self._lease.is_held:
            self._adopted = False
            await self._stop()
            if not catalog.webhooks or catalog.passed_over:
                return
            found = await asyncio.to_thread(self._lease.acquire)
            if found is None:
                return
            self._hooks, self._saved, self._adopted = dict(found), dict(found), True
            # What was found may be further than this process had read.
            catalog = await asyncio.to_thread(self._registry.refresh)
        await asyncio.to_thread(self._queue, catalog, time.time())
        self._send_due(catalog)
        if self._hooks != self._saved or self._lease.is_due:
            hooks = dict(self._hooks)
            if not await asyncio.to_thread(self._lease.save, hooks):
                logger.warning("webhooks: another process has taken over the deliveries")
                await self._stop()
            self._saved = hooks

    def _queue(self, catalog: Catalog, now: float) -> None:
        """Read the log on for each webhook, and carry out what was asked about dead letters."""
        for gone in self._hooks.keys() - catalog.webhooks.keys():
            _forget(gone)
        hooks = {}
        for hook in catalog.webhooks.values():
            progress = self._hooks.get(hook.id)
            if progress is None or Position.parse(progress.cursor).sequence > catalog.sequence:
                # Of a log that ended later: this one was restored from a backup since.
                progress = Progress(cursor=str(hook.after))
            progress = progress.resend(hook.resent, now)
            room = MAX_WAITING - len(progress.waiting)
            if room > 0:
                cursor = Position.parse(progress.cursor)
                page = self._feed.page(cursor, room, partial(_wants, hook))
                progress = progress.queue(page, now)
            hooks[hook.id] = progress
            LAG.labels(hook.id).set(progress.lag(catalog.sequence))
            DEAD_LETTERS.labels(hook.id).set(len(progress.dead))
        self._hooks = hooks

    def _send_due(self, catalog: Catalog) -> None:
        """Begin the attempts that are due, as many as may be in-flight: of each webhook the same
        share, so that slow receivers keep no other one waiting."""
        now = time.time()
        share = min(PER_WEBHOOK, IN_FLIGHT // max(1, len(self._hooks)))
        for name, progress in self._hooks.items():
            if (hook := catalog.webhooks.get(name)) is None:
                continue
            lanes = {a.delivery.lane for a in self._attempts.values() if a.hook == name}
            for delivery in progress.next(lanes, now):
                if len(lanes) >= share or len(self._attempts) >= IN_FLIGHT:
                    break
                lanes.add(delivery.lane)
                task = asyncio.create_task(self._attempt(hook, delivery))
                self._attempts[task] = _Attempt(name, delivery)

    async def _attempt(self, hook: Webhook, delivery: Delivery) -> str | None:
        """Send an event; why it did not arrive, or None."""
        position = delivery.position
        try:
            events = await asyncio.to_thread(self._feed.of, position.sequence)
            (body,) = (event.body for event in events if event.position == position)
            registry = self._registry.catalog.registry
            secrets = [secret_of(hook, registry, secret) for secret in self._secrets]
            signed = headers(secrets, delivery.id, int(time.time()), body)
            return await self._sender.send(hook.url, signed, body)
        except LoraryError as error:
            return f"the log could not be read: {error.message}"
        except Exception as error:
            logger.exception("webhooks: an attempt failed")
            return f"the registry failed: {type(error).__name__}"

    async def _settle_for(self, seconds: float) -> None:
        """Take note of attempts that end, and begin the next in their lanes."""
        clock = asyncio.get_running_loop().time
        ends = clock() + seconds
        while (left := ends - clock()) > 0:
            if not self._attempts:
                await asyncio.sleep(left)
                return
            done, _ = await asyncio.wait(
                self._attempts, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            self._settle_all(done)
            if self._lease.is_held:
                self._send_due(self._registry.catalog)

    def _settle_all(self, done: Iterable[asyncio.Task[str | None]]) -> None:
        for task in done:
            self._settle(self._attempts.pop(task), task.result())

    def _settle(self, attempt: _Attempt, error: str | None) -> None:
        hook, delivery = attempt.hook, attempt.delivery
        if (progress := self._hooks.get(hook)) is None:
            return
        if error is None:
            self._hooks[hook] = progress.delivered(delivery)
            DELIVERIES.labels(hook, "delivered").inc()
            return
        after = self._hooks[hook] = progress.failed(
            delivery,
            error,
            time.time(),
            give_up=self._give_up,
            chance=random.random(),  # noqa: S311
            sequence=self._registry.catalog.sequence,
        )
        is_dead = len(after.waiting) < len(progress.waiting)
        DELIVERIES.labels(hook, "dead" if is_dead else "failed").inc()
        logger.log(
            logging.WARNING if is_dead else logging.INFO,
            "webhook %s: event %s was not delivered (attempt %d%s): %s",
            hook, delivery.id, delivery.attempts + 1, ", given up" if is_dead else "", error,
        )  # fmt: skip

    async def _stop(self) -> None:
        """Break off what is in-flight; whoever delivers next repeats it."""
        for hook in self._hooks:
            _forget(hook)
        for task in self._attempts:
            task.cancel()
        await asyncio.gather(*self._attempts, return_exceptions=True)
        self._attempts.clear()


@contextlib.contextmanager
def delivering(deliverer: Deliverer) -> Iterator[None]:
    """Deliver in a thread and on an event loop of its own: what receivers send may keep that loop
    busy, but not the service's."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(deliverer.run())
    thread = threading.Thread(target=_finish, args=(loop, task), name="webhooks", daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()


def _finish(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[None]") -> None:
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def _wants(hook: Webhook, event: PublicEvent) -> bool:
    return hook.domain in (ANY_DOMAIN, event.domain) and (
        not hook.types or event.type in hook.types
    )


def _forget(hook: str) -> None:
    """Drop the gauges of a webhook that is gone, or that another process serves."""
    for gauge in (LAG, DEAD_LETTERS):
        with contextlib.suppress(KeyError):
            gauge.remove(hook)
