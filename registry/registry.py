"""The registry as one process sees it: commands in, events out, linearizable across processes.

One thread writes. It takes every command that waits, decides each against the state that the ones
before it make, and commits them together; a group that loses the race for its place in the log is
decided again on what the winner wrote. A refusal concerns only the command that caused it. Commands
that are not urgent wait a little for others; nothing is answered before its commit is stored. See
docs/design/015.
"""

import math
import queue
import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeAlias

from registry.errors import AlreadyExists, Outdated, Overloaded, RegistryMissing, TooLarge
from registry.log import checkpoints, remains
from registry.log.commits import CommitLog, advance, follow
from registry.metrics import COMMIT_SECONDS, COMMITS, CONFLICTS
from registry.model.access import BOOTSTRAP, Secret
from registry.model.base import Command, Entry, Event
from registry.model.catalog import Catalog
from registry.model.creation import CreateRegistry
from registry.model.machine import decide, fold
from registry.store.base import ObjectStore
from registry.times import FIRST, instant, utc_now

MAX_GROUP = 256
"""Commands in one commit at the most."""
MAX_WAITING = 4 * MAX_GROUP
"""Commands that wait for the writer at the most, beside those in its hands."""


@dataclass(slots=True)
class _Request:
    command: Command
    actor: str
    answer: "Future[tuple[Event, ...]]" = field(default_factory=Future)
    given: float = field(default_factory=time.monotonic)


_Outcome: TypeAlias = "tuple[Event, ...] | Exception"


class Registry:
    """Executes commands against the log in `store`. Thread-safe; close it when done."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        clock: Callable[[], str] = utc_now,
        pause: float = 0.0,
        max_group: int = MAX_GROUP,
    ) -> None:
        """pause: seconds from one commit to the next that no urgent command asks for.
        max_group: commands in one commit at the most."""
        self.store = store
        self.pause = pause
        self._max_group = max_group
        self._committed = -math.inf
        self._log = CommitLog(store)
        self._clock = clock
        self._catalog = checkpoints.load(store)
        self._catalog.index  # noqa: B018 - made now, so that no request waits for it
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._advancing = threading.Lock()
        self._looking = threading.Lock()
        self._next_look: Future[Catalog] | None = None
        self._closed = False
        self._writer = threading.Thread(target=self._write, name="log-writer", daemon=True)
        self._writer.start()

    @classmethod
    def create(cls, store: ObjectStore, *, name: str, key_name: str) -> Secret:
        """Begin a registry in an empty store and return its first operator's key.

        What an import that broke off left is removed. Raises `Conflict` if the store holds a
        registry already, or a part of one.
        """
        remains.clear(store)
        secret = Secret.generate()
        command = CreateRegistry(
            f"{name}-{uuid.uuid4().hex[:8]}", secret.id, key_name, secret.digest
        )
        registry = cls(store)
        try:
            registry.execute(command, BOOTSTRAP)
        finally:
            registry.close()
        return secret

    @property
    def catalog(self) -> Catalog:
        """The newest state this process has read or written."""
        return self._catalog

    def refresh(self) -> Catalog:
        """Read what other processes wrote; raises `RegistryMissing` if there is no registry."""
        catalog = self._catch_up() if self.store.is_near else self._share_look()
        if catalog.sequence == 0:
            raise RegistryMissing(f"{self.store.url} holds no registry. Create it: lorary init")
        return catalog

    def execute(self, command: Command, actor: str) -> tuple[Event, ...]:
        """Carry out `command` for key id `actor` and return what happened, once it is stored.

        An empty tuple means that it was so already. Raises what `decide` raises, `Overloaded`,
        `StoreUnavailable`, or `OutcomeUnknown` if the store never answered.
        """
        return self.submit(command, actor).result()

    def submit(self, command: Command, actor: str) -> "Future[tuple[Event, ...]]":
        """As `execute`, for callers that wait without a thread: the future gets the events or the
        error. Raises `Overloaded` if too many commands wait already."""
        request = _Request(command, actor)
        with self._advancing:
            if self._closed:
                raise RuntimeError("this registry is closed")
            if self._requests.qsize() >= MAX_WAITING:
                raise Overloaded("Too many changes wait to be written. Repeat in a moment.")
            self._requests.put(request)
        return request.answer

    def close(self) -> None:
        """Finish what waits and end the writer."""
        with self._advancing:
            first = not self._closed
            self._closed = True
            if first:
                self._requests.put(None)
        self._writer.join()

    def _write(self) -> None:
        while group := self._next_group():
            self._carry_out(group)

    def _next_group(self) -> list[_Request]:
        """What waits, once something in it need not wait for more; nothing once this is closed."""
        group, due = list[_Request](), math.inf
        while len(group) < self._max_group:
            left = max(0.0, due - time.monotonic()) if group else None
            try:
                request = self._requests.get(timeout=left)
            except queue.Empty:
                break
            if request is None:
                self._requests.put(None)
                break
            if request.answer.set_running_or_notify_cancel():
                group.append(request)
                pause = 0.0 if request.command.urgent else self._committed + self.pause
                due = min(due, max(request.given, pause))
        return group

    def _carry_out(self, group: Sequence[_Request]) -> None:
        """Answer every request of the group, each for itself if together they are too large."""
        try:
            self._commit(group)
        except BaseException as error:
            if isinstance(error, TooLarge) and len(group) > 1:
                for request in group:
                    self._carry_out([request])
                return
            for request in group:
                if not request.answer.done():
                    request.answer.set_exception(error)

    def _commit(self, group: Sequence[_Request]) -> None:
        """Answer every request of the group, with one commit at most."""
        attempt, began = 0, time.perf_counter()
        made: checkpoints.Made | None = None
        while True:
            catalog = self._catch_up()
            if catalog.passed_over:
                raise Outdated(catalog.passed_over)
            now = max(self._clock(), catalog.time or FIRST, key=instant)
            accepted, entries = _decide_all(catalog, group, now)
            if not entries:
                stored = None
                break
            made = checkpoints.make(catalog) if checkpoints.due(catalog) else None
            try:
                said = made.confirmation if made else None
                stored = self._log.append(catalog, entries, now, said)
                break
            except AlreadyExists:
                CONFLICTS.inc()
                attempt += 1
                time.sleep(random.uniform(0, min(0.5, 0.01 * 2**attempt)))  # noqa: S311
        if stored is not None:
            self._committed = time.monotonic()
            COMMITS.inc()
            COMMIT_SECONDS.observe(time.perf_counter() - began)
            catalog = self._advance(follow(catalog, stored))
        for request, outcome in accepted:
            if isinstance(outcome, Exception):
                request.answer.set_exception(outcome)
            else:
                request.answer.set_result(outcome)
        if stored is not None and made is not None:
            checkpoints.write(self.store, made)

    def _share_look(self) -> Catalog:
        """As `_catch_up`, one at a time. Whoever asks meanwhile waits for the next look, which
        begins after all of them asked, so that each sees what was written before."""
        with self._advancing:
            look = self._next_look or Future()
            leads, self._next_look = self._next_look is None, look
        if leads:
            with self._looking:
                with self._advancing:
                    self._next_look = None
                try:
                    look.set_result(self._catch_up())
                except BaseException as error:
                    look.set_exception(error)
        return look.result()

    def _catch_up(self) -> Catalog:
        """The state after every commit that is in the log now; keeps what it read if it fails."""
        catalog = self._catalog
        for newer in advance(self._log, catalog):
            catalog = self._advance(newer)
        return catalog

    def _advance(self, catalog: Catalog) -> Catalog:
        """Let readers see `catalog`, unless they see a newer one already."""
        with self._advancing:
            if catalog.sequence >= self._catalog.sequence:
                self._catalog = catalog
        return catalog


def _decide_all(
    catalog: Catalog, group: Sequence[_Request], now: str
) -> tuple[list[tuple[_Request, _Outcome]], list[Entry]]:
    """Each request's events or refusal, and all events in order."""
    state, entries = catalog, list[Entry]()
    outcomes: list[tuple[_Request, _Outcome]] = []
    for request in group:
        try:
            events = decide(state, request.command, request.actor, now)
        except Exception as refusal:
            outcomes.append((request, refusal))
            continue
        caused = [Entry(request.actor, event) for event in events]
        state = fold(state, caused, now)
        entries += caused
        outcomes.append((request, events))
    return outcomes, entries
