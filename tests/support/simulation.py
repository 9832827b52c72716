"""Many writers over one store that fails in every way a store may, one step at a time.

Every writer is a `Registry` of its own, as in a process of its own. Whenever one wants something of
the store it waits, until all others wait as well; then one of them is let go on, and what becomes
of its operation is drawn. So a seed repeats a run. Afterwards the log is compared with what each
command's giver was told: acknowledged, refused, or nobody knows.
"""

import contextlib
import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from adapters.errors import LoraryError
from registry.errors import (
    AlreadyExists,
    ObjectNotFound,
    OutcomeUnknown,
    StoreBusy,
    StoreUnavailable,
)
from registry.log import checkpoints
from registry.log.commits import CommitLog, catch_up, commit_key
from registry.log.follower import Follower
from registry.maintain.verify import verify
from registry.model.base import Command, Event
from registry.model.bases import RegisterBase
from registry.model.catalog import Catalog, Grant
from registry.model.domains import CreateDomain, DomainCreated
from registry.model.keys import IssueKey, KeyIssued
from registry.model.policies import Policy
from registry.model.versions import PublishVersion, VersionPublished
from registry.registry import Registry
from registry.store.base import ObjectInfo, PutMode
from registry.store.blobs import Blobs, content_digest
from tests.support.catalogs import FACTS, files

DOMAIN = "medical"
TIME = "2026-01-01T00:00:00Z"
ADAPTERS = 5
"""Adapters that the writers publish to at once."""
READS = {"away": 0.02, "throttled": 0.02, "garbled": 0.005}
"""How often a read fails, and how."""
WRITES = {
    "away": 0.02,  # refused: it did not land
    "lost before": 0.03,  # no answer, and it did not land
    "lost after": 0.03,  # no answer, but it landed
    "late": 0.03,  # no answer, and it lands later, or never
    "own conflict": 0.02,  # it landed, and its own repeat is answered that the key is taken
}
"""How often a write fails, and how."""
KILLED = 0.01
"""How often a process is killed at an operation: half before it, half after it."""
OUTAGE = 0.001
"""How often an outage of up to 100 steps begins."""


class Killed(BaseException):
    """The process is gone."""


@dataclass(slots=True)
class Told:
    """What the givers of commands were told, by what each command causes."""

    acknowledged: Counter[str] = field(default_factory=Counter)
    refused: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)


@dataclass(slots=True)
class World:
    """The objects, and whose turn it is."""

    seed: int
    objects: dict[str, bytes] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    told: Told = field(default_factory=Told)
    calm: bool = True
    """Whether nothing fails for now."""
    ended: bool = False
    """Whether writers should give no more commands."""
    steps: int = 0
    broken: list[BaseException] = field(default_factory=list)
    """Errors that nobody foresaw."""
    _draw: Random = field(default_factory=Random)
    _late: list[tuple[str, bytes, PutMode]] = field(default_factory=list)
    _away: int = 0
    _alive: set[int] = field(default_factory=set)
    _waiting: set[int] = field(default_factory=set)
    _granted: int | None = None
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def begin(self, process: int) -> None:
        """A process that will want something, or say that it ended."""
        self._alive.add(process)

    def end(self, process: int) -> None:
        """It wants nothing any more."""
        with self._changed:
            self._alive.discard(process)
            self._changed.notify_all()

    def turn(self, process: int) -> None:
        """Wait until this process may make its next step."""
        with self._changed:
            if process not in self._alive:  # before the run, and after it
                return
            self._waiting.add(process)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._granted == process)
            self._granted = None
            self._waiting.discard(process)

    def run(self, steps: int) -> None:
        """Let processes go on in drawn order for `steps`; then, in calm, until all have ended."""
        self._draw, self.calm = Random(self.seed), False
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._granted is None and self._waiting == self._alive
                )
                if not self._alive:
                    return
                self.steps += 1
                if self.steps == steps:
                    self.calm = self.ended = True
                    self._away = 0
                self._weather()
                self._granted = self._draw.choice(sorted(self._waiting))
                self._changed.notify_all()

    def _weather(self) -> None:
        """What happens without anybody's doing: outages, and writes that land late."""
        draw = self._draw
        if self._late and draw.random() < 0.1:
            key, data, mode = self._late.pop(draw.randrange(len(self._late)))
            if mode == "overwrite" or key not in self.objects:
                self.objects[key] = data
                self.faults["landed late"] += 1
        if not self.calm and self._away == 0 and draw.random() < OUTAGE:
            self._away = draw.randrange(1, 100)
            self.faults["outage"] += 1
        self._away = max(0, self._away - 1)

    def fault(self, chances: dict[str, float]) -> str:
        """What goes wrong with the operation whose turn it is; mostly nothing."""
        if self.calm:
            return ""
        if self._away:
            return "away"
        drawn = self._draw.random()
        for name, chance in chances.items():
            drawn -= chance
            if drawn < 0:
                self.faults[name] += 1
                return name
        return ""

    def is_killed(self) -> bool:
        """Whether the process whose turn it is goes now."""
        killed = not self.calm and self._draw.random() < KILLED / 2
        self.faults["killed"] += killed
        return killed

    def delay(self, key: str, data: bytes, mode: PutMode) -> None:
        """Keep a write that may land later."""
        self._late.append((key, data, mode))


class SimulatedStore:
    """The store as one process sees it."""

    url = "simulated://"
    is_near = True

    def __init__(self, world: World, process: int) -> None:
        self._world, self._process = world, process
        self._dead = False

    @contextlib.contextmanager
    def _operation(self) -> Iterator[None]:
        self._world.turn(self._process)
        self._live()
        yield
        self._live()

    def _live(self) -> None:
        self._dead = self._dead or self._world.is_killed()
        if self._dead:
            raise Killed

    def get(self, key: str) -> bytes:
        with self._operation():
            fault = self._world.fault(READS)
            if fault == "away":
                raise StoreUnavailable("simulated: the store is away")
            if fault == "throttled":
                raise StoreBusy("simulated: the store throttles")
            if key not in self._world.objects:
                raise ObjectNotFound(key)
            data = self._world.objects[key]
            return data[: len(data) // 2] if fault == "garbled" else data

    def stream(self, key: str, *, start: int = 0, chunk: int = 1 << 20) -> Iterator[bytes]:
        yield self.get(key)[start:]

    def head(self, key: str) -> ObjectInfo:
        return ObjectInfo(key, len(self.get(key)), 0.0)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._operation():
            if self._world.fault(READS):
                raise StoreUnavailable("simulated: the store is away")
            found = {k: v for k, v in self._world.objects.items() if k.startswith(prefix)}
        return iter([ObjectInfo(key, len(data), 0.0) for key, data in found.items()])

    def put(self, key: str, data: bytes, mode: PutMode) -> None:
        with self._operation():
            fault = self._world.fault(WRITES)
            if fault == "away":
                raise StoreUnavailable("simulated: the store is away")
            if fault == "lost before":
                raise OutcomeUnknown("simulated: no answer")
            if fault == "late":
                self._world.delay(key, data, mode)
                raise OutcomeUnknown("simulated: no answer yet")
            if mode == "create" and key in self._world.objects:
                raise AlreadyExists(key)
            self._world.objects[key] = data
            if fault == "lost after":
                raise OutcomeUnknown("simulated: no answer")
            if fault == "own conflict" and mode == "create":
                raise AlreadyExists(key)

    def delete(self, key: str) -> None:
        with self._operation():
            self._world.objects.pop(key, None)

    def put_file(self, key: str, path: Path, *, sha256: str) -> None:
        self.put(key, path.read_bytes(), "overwrite")

    def put_stream(self, key: str, pieces: Iterable[bytes]) -> None:
        self.put(key, b"".join(pieces), "overwrite")

    def signed_put(self, key: str, *, sha256: str, size: int) -> None:
        return None

    def signed_get(self, key: str) -> None:
        return None


def effect(event: Event) -> str | None:
    """What an event does that may be done once only, and by one command."""
    match event:
        case DomainCreated(domain=domain):
            return f"domain {domain}"
        case KeyIssued(key=key):
            return f"key {key}"
        case VersionPublished(adapter=adapter, digest=digest):
            return f"bytes {adapter} {digest}"
    return None


class Writer(threading.Thread):
    """Gives one command after the other, and starts again when its process is killed."""

    def __init__(self, world: World, number: int, operator: str) -> None:
        super().__init__(daemon=True)
        self._world, self._number, self._operator = world, number, operator
        self._draw = Random(world.seed * 1000 + number)
        self._given = 0

    def run(self) -> None:
        try:
            while not self._world.ended:
                with contextlib.suppress(Killed, LoraryError):
                    self._live()
        except BaseException as error:
            self._world.broken.append(error)
        finally:
            self._world.end(self._number)

    def _live(self) -> None:
        """One process, until it is killed."""
        registry = Registry(SimulatedStore(self._world, self._number), clock=lambda: TIME)
        try:
            while not self._world.ended:
                command, caused = self._command(registry.catalog)
                self._give(registry, command, caused)
        finally:
            registry.close()

    def _give(self, registry: Registry, command: Command, caused: str) -> None:
        told, before = self._world.told, registry.catalog
        try:
            events = registry.execute(command, self._operator)
        except (OutcomeUnknown, Killed):
            told.unknown.add(caused)
            raise
        except LoraryError:
            told.refused.add(caused)
        else:
            told.acknowledged[caused] += bool(events)
        assert registry.catalog.sequence >= before.sequence, "a state went back"

    def _command(self, catalog: Catalog) -> tuple[Command, str]:
        """Something new, or something that other writers try at the same time."""
        self._given += 1
        kind = self._draw.randrange(4)
        if kind == 0:
            name = f"d{self._number}-{self._given}"
            return CreateDomain(name, Policy()), f"domain {name}"
        if kind == 1:
            name = f"shared-{catalog.sequence // 10}"
            return CreateDomain(name, Policy()), f"domain {name}"
        if kind == 2:
            key = f"k{self._number}-{self._given}"
            secret = hashlib.sha256(key.encode()).hexdigest()
            return IssueKey(key, f"holder {key}", secret, (Grant("infer", DOMAIN),)), f"key {key}"
        adapter = f"a{self._draw.randrange(ADAPTERS)}"
        listed = files(self._number * 10**7 + self._given)
        data = f"weights {self._number * 10**7 + self._given}".encode()
        self._world.objects[f"blobs/sha256/{listed[0].sha256[:2]}/{listed[0].sha256}"] = data
        digest = content_digest(listed)
        known = catalog.adapters.get(f"{DOMAIN}/{adapter}")
        expected = len(known.versions) if known else 0
        command = PublishVersion(
            DOMAIN, adapter, digest, "tiny", listed, FACTS, catalog.sequence, expected=expected
        )
        return command, f"bytes {adapter} {digest}"


class Reader(threading.Thread):
    """Follows the log, and holds that what it sees is what the log says."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(daemon=True)
        self._world, self._number = world, number

    def run(self) -> None:
        try:
            while not self._world.ended:
                with contextlib.suppress(Killed):
                    self._live()
        except BaseException as error:
            self._world.broken.append(error)
        finally:
            self._world.end(self._number)

    def _live(self) -> None:
        follower, seen = Follower(SimulatedStore(self._world, self._number)), 0
        while not self._world.ended:
            with contextlib.suppress(LoraryError):
                follower.refresh()
            catalog = follower.catalog
            assert catalog.sequence >= seen, "a follower went back"
            seen = catalog.sequence
            if seen:
                stored = self._world.objects[commit_key(seen)]
                assert catalog.head == hashlib.sha256(stored).hexdigest(), "not what the log says"


def simulate(seed: int, *, writers: int, steps: int) -> World:
    """Let `writers` registries and a follower run `steps` steps; raises `AssertionError` if one
    promise was broken."""
    world = World(seed)
    with _without_waiting():
        store: Any = SimulatedStore(world, -1)
        operator = Registry.create(store, name="simulated", key_name="operator").id
        first = Registry(store)
        first.execute(CreateDomain(DOMAIN, Policy()), operator)
        shapes = Blobs(store).put_bytes(b"{}")
        first.execute(RegisterBase("tiny", "0" * 64, shapes, read_at=2), operator)
        first.close()
        threads: list[threading.Thread] = [Writer(world, n, operator) for n in range(writers)]
        threads.append(Reader(world, writers))
        for number in range(len(threads)):
            world.begin(number)
        for thread in threads:
            thread.start()
        world.run(steps)
        for thread in threads:
            thread.join()
    if world.broken:
        raise world.broken[0]
    _judge(world, store)
    return world


def _judge(world: World, store: Any) -> None:
    """Compare the log with what was told."""
    log, done = CommitLog(store), Counter[str]()
    for stored in log.after(0):
        done.update(filter(None, (effect(entry.event) for entry in stored.commit.entries)))
    told = world.told
    doubled = {name for name, count in done.items() if count > 1}
    assert not doubled, f"took effect twice: {doubled}"
    twice = {name for name, count in told.acknowledged.items() if count > 1}
    assert not twice, f"acknowledged to two: {twice}"
    lost = {name for name, count in told.acknowledged.items() if count} - done.keys()
    assert not lost, f"acknowledged and lost: {lost}"
    known = {name for name, count in told.acknowledged.items() if count} | told.unknown
    sneaked = (told.refused & done.keys()) - known
    assert not sneaked, f"refused, and there all the same: {sneaked}"
    assert checkpoints.load(store) == catch_up(log, Catalog()), "a checkpoint is not the log"
    for adapter in checkpoints.load(store).adapters.values():
        numbers = [version.number for version in adapter.versions]
        assert numbers == list(range(1, len(numbers) + 1))
    findings = verify(store).findings
    assert not findings, findings


@contextlib.contextmanager
def _without_waiting() -> Iterator[None]:
    """Pauses between attempts take no time, and checkpoints are frequent."""
    still = SimpleNamespace(**{**vars(time), "sleep": lambda _seconds: None})
    with (
        patch("registry.log.commits.clock", still),
        patch("registry.registry.time", still),
        patch.object(checkpoints, "EVERY", 7),
    ):
        yield
