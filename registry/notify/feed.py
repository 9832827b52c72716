"""Reads public events from the log, page by page from a cursor."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from registry.errors import Outdated
from registry.log.commits import CommitLog
from registry.notify.cloudevents import END, Position, PublicEvent, public_events
from registry.registry import Registry

KEPT = 2000
"""Commits whose public events stay in memory."""
SCANNED = 500
"""Commits that one page reads at the most."""
Events = tuple[PublicEvent, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """Some events, and the cursor to go on from."""

    events: Events
    next: Position
    more: bool
    """Whether the log goes on after `next`."""


class Feed:
    """The public events of a registry. Commits never change, so the latest are kept in memory.
    Thread-safe."""

    def __init__(self, registry: Registry, *, scanned: int = SCANNED) -> None:
        self.registry = registry
        self._scanned = scanned
        self._log = CommitLog(registry.store)
        self._kept: OrderedDict[int, Events] = OrderedDict()
        self._lock = threading.Lock()

    def page(self, after: Position, limit: int, wanted: Callable[[PublicEvent], bool]) -> Page:
        """Up to `limit` events after a cursor for which `wanted` holds.

        Reads commits up to the newest that this process knows, and a bounded number of them: a page
        may be empty although the log goes on. Raises what the store raises, and `Outdated`.
        """
        last = self.registry.catalog.sequence
        found: list[PublicEvent] = []
        first = after.sequence if after.entry != END else after.sequence + 1
        through = min(last, first + self._scanned - 1)
        for events in self._from(first, through):
            for event in events:
                if event.position > after and wanted(event):
                    if len(found) == limit:
                        return Page(tuple(found), found[-1].position, more=True)
                    found.append(event)
        reached = max(after, Position(through, END))
        return Page(tuple(found), reached, more=reached.sequence < last)

    def of(self, sequence: int) -> Events:
        """The public events of one commit that exists."""
        return next(self._from(sequence, sequence))

    def _from(self, first: int, through: int) -> Iterator[Events]:
        """The public events of each commit from `first` through `through`."""
        sequence = first
        while sequence <= through and (events := self._known(sequence)) is not None:
            yield events
            sequence += 1
        if sequence > through:
            return
        for stored in self._log.after(sequence - 1):
            if stored.passed_over:  # its entries' places are not known
                raise Outdated(stored.passed_over)
            events = public_events(stored.commit, self.registry.catalog.registry)
            self._keep(stored.commit.sequence, events)
            yield events
            if stored.commit.sequence >= through:
                return

    def _known(self, sequence: int) -> Events | None:
        with self._lock:
            return self._kept.get(sequence)

    def _keep(self, sequence: int, events: Events) -> None:
        with self._lock:
            self._kept[sequence] = events
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
