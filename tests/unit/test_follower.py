"""Following a log: what was read is kept, far stores are read ahead, and who asks is told soon."""

import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from registry.errors import BrokenChain, StoreUnavailable
from registry.log.commits import READ_AHEAD, CommitLog, commit_key, follow
from registry.log.follower import AGAIN_SECONDS, Follower
from registry.model.access import Secret
from registry.model.base import Entry
from registry.model.domains import CreateDomain, DomainCreated
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import LocalStore


class FarStore(LocalStore):
    """Counts reads and how many are under way; every `failing`-th fails, each takes `seconds`."""

    is_near = False

    def __init__(self, root: Path, *, failing: int = 0, seconds: float = 0.0) -> None:
        super().__init__(root)
        self.failing, self.seconds = failing, seconds
        self.reads = self.under_way = self.most = 0
        self._counting = threading.Lock()

    def get(self, key: str) -> bytes:
        with self._counting:
            self.reads += 1
            number = self.reads
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        try:
            time.sleep(self.seconds)
            if self.failing and number % self.failing == 0:
                raise StoreUnavailable("injected")
            return super().get(key)
        finally:
            with self._counting:
                self.under_way -= 1


@pytest.fixture
def operator(local_store: LocalStore) -> Secret:
    return Registry.create(local_store, name="test", key_name="operator")


def lengthen(store: LocalStore, count: int) -> int:
    """Append `count` commits without waiting for the disk; the last one's number."""

    class Quick(LocalStore):
        def put(self, key: str, data: bytes, mode: str) -> None:
            Path(self.root, key).write_bytes(data)

    log, catalog = CommitLog(Quick(store.root)), Follower(store).refresh()
    for number in range(count):
        event = DomainCreated(domain=f"d{catalog.sequence}-{number}", policy=Policy())
        stored = log.append(catalog, [Entry("test", event)], "2026-01-01T00:00:00Z")
        catalog = follow(catalog, stored)
    return catalog.sequence


@pytest.mark.parametrize("first", [True, False])
def test_a_follower_far_behind_catches_up_though_reads_keep_failing(
    local_store: LocalStore, operator: Secret, first: bool
) -> None:
    follower = Follower(FarStore(local_store.root, failing=0 if not first else 100))
    if not first:
        follower.refresh()
    last = lengthen(local_store, 1000)
    follower._store.failing = 100  # type: ignore[attr-defined]
    seen, looks = [], 0
    while follower.catalog.sequence < last:
        looks += 1
        assert looks < 40, "what one look reads is lost to the next"
        try:
            follower.refresh()
        except StoreUnavailable:
            seen.append(follower.catalog.sequence)
    assert seen
    if first:
        assert set(seen) == {0}, "before the end is reached, nobody sees a state of long ago"
    else:
        assert seen == sorted(seen)
        assert seen[-1] > 1


def test_a_far_log_is_read_ahead_in_bounds_and_in_order(
    local_store: LocalStore, operator: Secret
) -> None:
    last = lengthen(local_store, 200)
    far = FarStore(local_store.root, seconds=0.002)
    numbers = [stored.commit.sequence for stored in CommitLog(far).after(0)]
    assert numbers == list(range(1, last + 1))
    assert 4 < far.most <= READ_AHEAD
    assert far.reads <= last + READ_AHEAD
    near = [stored.commit.sequence for stored in CommitLog(local_store).after(0)]
    assert near == numbers


def test_a_look_at_a_log_that_did_not_grow_is_one_read(
    local_store: LocalStore, operator: Secret
) -> None:
    far = FarStore(local_store.root)
    follower = Follower(far)
    follower.refresh()
    far.reads = 0
    follower.refresh()
    assert far.reads == 1


def test_a_break_in_a_far_log_is_reported_after_the_commits_before_it(
    local_store: LocalStore, operator: Secret
) -> None:
    last = lengthen(local_store, 60)
    follower = Follower(FarStore(local_store.root))
    follower.refresh()
    lengthen(local_store, 60)
    local_store.put(commit_key(last + 40), b"{}", "overwrite")
    with pytest.raises(BrokenChain, match=f"Commit {last + 40}"):
        follower.refresh()
    assert follower.catalog.sequence == last + 39


@pytest.fixture
def following(local_store: LocalStore, operator: Secret) -> Iterator[tuple[Follower, FarStore]]:
    """A follower that would look by itself only once a minute."""
    far = FarStore(local_store.root)
    follower = Follower(far, poll_seconds=60)
    follower.start()
    follower.wait_for_first_look(20)
    far.reads = 0
    yield follower, far
    follower.stop()


def test_what_was_acknowledged_is_seen_by_who_asks_again_at_once(
    following: tuple[Follower, FarStore], local_store: LocalStore, operator: Secret
) -> None:
    follower, _ = following
    registry = Registry(local_store)
    for number in range(5):
        registry.execute(CreateDomain(f"d{number}", Policy()), operator.id)
        assert f"d{number}" not in follower.catalog.domains
        assert f"d{number}" in follower.look_again().result(10).domains
    registry.close()


def test_however_many_ask_again_the_store_is_asked_a_bounded_number_of_times(
    following: tuple[Follower, FarStore],
) -> None:
    follower, far = following
    began = time.monotonic()
    futures = []
    while time.monotonic() - began < 5 * AGAIN_SECONDS:
        futures += [follower.look_again() for _ in range(100)]
        time.sleep(0.001)
    done, waiting = wait(futures, timeout=10)
    elapsed = time.monotonic() - began
    assert not waiting
    assert len(done) > 1000
    assert far.reads <= elapsed / AGAIN_SECONDS + 1


def test_a_look_that_fails_leaves_those_who_asked_with_what_was_known(
    following: tuple[Follower, FarStore],
) -> None:
    follower, far = following
    before = follower.catalog
    far.failing = 1
    assert follower.look_again().result(10) is before
    assert follower.error is not None


def test_who_asks_a_follower_that_ends_or_never_began_is_answered(
    local_store: LocalStore, operator: Secret
) -> None:
    follower = Follower(local_store, poll_seconds=60)
    follower.refresh()
    assert follower.look_again().result(1) is follower.catalog
    follower.start()
    follower.wait_for_first_look(10)
    asked = follower.look_again()
    follower.stop()
    assert asked.result(1).sequence == 1
    assert follower.look_again().result(1).sequence == 1


class Held(FarStore):
    """Answers a read when `go` is set, with what was there when it was asked."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked, self.go = threading.Event(), threading.Event()
        self.go.set()

    def get(self, key: str) -> bytes:
        try:
            return super().get(key)
        finally:
            self.asked.set()
            self.go.wait(20)


def test_callers_of_a_registry_on_a_far_store_share_its_reads(
    local_store: LocalStore, operator: Secret
) -> None:
    far, many = Held(local_store.root), 64
    registry, asking = Registry(far), threading.Barrier(many + 1)
    far.reads = far.most = 0
    far.go.clear()

    def ask() -> int:
        asking.wait()
        return registry.refresh().sequence

    with ThreadPoolExecutor(many) as pool:
        asked = [pool.submit(ask) for _ in range(many)]
        asking.wait()
        time.sleep(0.5)
        far.go.set()
        assert [one.result() for one in asked] == [1] * many
        assert 2 <= far.reads < many / 4
        assert far.most == 1
        far.failing = 1
        failed = [pool.submit(registry.refresh) for _ in range(8)]
        assert {type(one.exception()) for one in failed} == {StoreUnavailable}
    far.failing = 0
    assert registry.refresh().sequence == 1
    registry.close()


def test_a_shared_look_begins_after_all_who_asked_for_it(
    local_store: LocalStore, operator: Secret
) -> None:
    far, other = Held(local_store.root), Registry(local_store)
    registry = Registry(far)
    far.go.clear()
    far.asked.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(registry.refresh)
        assert far.asked.wait(20)
        other.execute(CreateDomain("written-meanwhile", Policy()), operator.id)
        second = pool.submit(registry.refresh)
        time.sleep(0.1)
        far.go.set()
        assert "written-meanwhile" not in first.result(20).domains
        assert "written-meanwhile" in second.result(20).domains
    other.close()
    registry.close()


def test_a_look_that_failed_makes_what_was_read_no_younger(
    local_store: LocalStore, operator: Secret
) -> None:
    follower = Follower(FarStore(local_store.root, failing=1))
    with pytest.raises(StoreUnavailable):
        follower.refresh()
    assert follower.age_seconds == math.inf
