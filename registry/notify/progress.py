"""How far the deliveries of one webhook have come. Pure: times and chance are passed in.

Events wait in lanes, one for each adapter and review. Only the first of a lane is sent; while it
fails, the others of its lane wait, and other lanes go on. Times are seconds since 1970.
"""

from collections.abc import Collection, Iterator

import msgspec

from registry.notify.cloudevents import Position
from registry.notify.feed import Page

MAX_WAITING = 1000
"""Events of a webhook that wait; with as many, no further commit is read for it."""
MAX_DEAD = 1000
"""Dead letters that a webhook keeps, the newest."""
FIRST_RETRY, LAST_RETRY = 2.0, 3600.0
"""Seconds before the first repeat, doubled for each further one, and the most."""
ERROR_LENGTH = 200


class Delivery(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event on its way to one webhook. What it says stands in the log."""

    id: str
    lane: str
    type: str
    subject: str
    queued: float
    attempts: int = 0
    due: float = 0.0
    """When it is sent next."""
    error: str = ""
    """Of the last attempt."""
    dead: int = 0
    """The newest commit when it was given up."""

    @property
    def position(self) -> Position:
        """Its place in the log."""
        return Position.parse(self.id)


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """The deliveries of one webhook."""

    cursor: str
    """Up to where the log's events were queued: a `Position`."""
    waiting: tuple[Delivery, ...] = ()
    """In the order of the log."""
    dead: tuple[Delivery, ...] = ()
    dropped: int = 0
    """Dead letters that gave way to newer ones."""
    resent: int = 0
    """As `Webhook.resent`, as far as it was carried out."""

    def queue(self, page: Page, now: float) -> "Progress":
        """With the events of a page that begins at the cursor."""
        new = (
            Delivery(str(event.position), event.lane, event.type, event.subject, now)
            for event in page.events
        )
        return msgspec.structs.replace(self, cursor=str(page.next), waiting=(*self.waiting, *new))

    def next(self, busy: Collection[str], now: float) -> Iterator[Delivery]:
        """The first delivery of each lane that is not busy, if it is due. One that is due later
        than any wait was put off by a clock that has gone back since."""
        seen = set(busy)
        for delivery in self.waiting:
            if delivery.lane not in seen:
                seen.add(delivery.lane)
                if not now < delivery.due <= now + LAST_RETRY:
                    yield delivery

    def delivered(self, delivery: Delivery) -> "Progress":
        """Without a delivery that has arrived."""
        left = tuple(one for one in self.waiting if one.id != delivery.id)
        return msgspec.structs.replace(self, waiting=left)

    def failed(
        self,
        delivery: Delivery,
        error: str,
        now: float,
        *,
        give_up: float,
        chance: float,
        sequence: int,
    ) -> "Progress":
        """With the delivery's next attempt, or with a dead letter `give_up` seconds after it was
        queued.

        chance: evenly from 0 to 1. sequence: the newest commit.
        """
        attempts = delivery.attempts + 1
        wait = min(LAST_RETRY, FIRST_RETRY * 2.0 ** min(attempts - 1, 30)) * (0.5 + chance / 2)
        tried = msgspec.structs.replace(
            delivery, attempts=attempts, error=error[:ERROR_LENGTH], due=now + wait
        )
        if now - delivery.queued < give_up:
            waiting = tuple(tried if one.id == delivery.id else one for one in self.waiting)
            return msgspec.structs.replace(self, waiting=waiting)
        dead = (*self.dead, msgspec.structs.replace(tried, dead=sequence))
        return msgspec.structs.replace(
            self.delivered(delivery),
            dead=dead[-MAX_DEAD:],
            dropped=self.dropped + max(0, len(dead) - MAX_DEAD),
        )

    def resend(self, through: int, now: float) -> "Progress":
        """With the deliveries that were given up at commit `through` or before waiting again, each
        before the later events of its lane."""
        if through <= self.resent:
            return self
        again = [
            Delivery(one.id, one.lane, one.type, one.subject, now)
            for one in self.dead
            if one.dead <= through
        ]
        return msgspec.structs.replace(
            self,
            waiting=tuple(sorted((*self.waiting, *again), key=lambda delivery: delivery.position)),
            dead=tuple(one for one in self.dead if one.dead > through),
            resent=through,
        )

    def lag(self, sequence: int) -> int:
        """Commits up to `sequence` since the last one of which everything was settled."""
        settled = Position.parse(self.cursor).sequence
        if self.waiting:
            settled = min(settled, self.waiting[0].position.sequence - 1)
        return max(0, sequence - settled)
