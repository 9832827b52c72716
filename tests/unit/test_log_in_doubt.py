"""What a writer does when the store does not answer clearly."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry.errors import (
    AlreadyExists,
    BrokenChain,
    OutcomeUnknown,
    StoreUnavailable,
    TooLarge,
)
from registry.log.commits import decode
from registry.log.follower import Follower
from registry.maintain.verify import verify
from registry.model.catalog import Catalog
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import LocalStore
from registry.store.base import PutMode


class DoubtfulStore(LocalStore):
    """Does to its next commits what `faults` say, one each."""

    def __init__(self, root: Path, *faults: str) -> None:
        super().__init__(root)
        self.faults = list(faults)
        self.away = False

    def put(self, key: str, data: bytes, mode: PutMode) -> None:
        fault = self.faults.pop(0) if self.faults and key.startswith("log/") else ""
        if fault == "lost before":
            raise OutcomeUnknown("no answer")
        if fault == "refused":
            raise StoreUnavailable("throttled")
        if fault == "another wins":
            super().put(key, data.replace(b'"id":"', b'"id":"other'), mode)
            raise AlreadyExists("taken")
        super().put(key, data, mode)
        if fault == "lost after":
            raise OutcomeUnknown("no answer")
        if fault == "own conflict":
            raise AlreadyExists("the SDK's own repeat found its first try")

    def stream(self, key: str, *, start: int = 0, chunk: int = 1 << 20) -> Iterator[bytes]:
        if self.away:
            raise StoreUnavailable("away")
        return super().stream(key, start=start, chunk=chunk)

    def get(self, key: str) -> bytes:
        if self.away:
            raise StoreUnavailable("away")
        fault = self.faults[0] if self.faults and key.startswith("log/") else ""
        if fault == "garbled":
            self.faults.pop(0)
            return super().get(key)[:20]
        return super().get(key)


@pytest.fixture
def operator(tmp_path: Path) -> str:
    return Registry.create(LocalStore(tmp_path), name="doubt", key_name="operator").id


@pytest.mark.parametrize(
    "faults",
    [["lost after"], ["own conflict"], ["lost before"], ["lost before", "lost after"],
     ["lost before", "lost before", "own conflict"], ["lost before", "refused"],
     ["lost before", "refused", "lost after"], ["lost after", "garbled"],
     ["own conflict", "garbled", "garbled"]],
    ids=" then ".join,
)  # fmt: skip
def test_a_doubtful_commit_is_in_the_log_exactly_once(
    tmp_path: Path, operator: str, faults: list[str]
) -> None:
    registry = Registry(DoubtfulStore(tmp_path, *faults))
    assert registry.execute(CreateDomain("medical", Policy()), operator)
    registry.close()
    assert verify(LocalStore(tmp_path)).commits == 2


def test_a_second_try_that_fails_leaves_the_outcome_unknown(
    tmp_path: Path, operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.log.commits.clock.sleep", lambda _seconds: None)
    registry = Registry(DoubtfulStore(tmp_path, "lost before", *["refused"] * 20))
    with pytest.raises(OutcomeUnknown, match="lorary log"):
        registry.execute(CreateDomain("medical", Policy()), operator)
    registry.close()


def test_commands_that_are_too_large_together_are_committed_one_by_one(
    tmp_path: Path, operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.log.commits.MAX_COMMIT", 4000)
    registry = Registry(LocalStore(tmp_path))
    large = Policy(card_sections=tuple(f"section {number:090d}" for number in range(20)))
    huge = Policy(card_sections=large.card_sections * 3)

    def create(number: int) -> str:
        try:
            policy = huge if number == 5 else large
            registry.execute(CreateDomain(f"d{number}", policy), operator)
        except TooLarge:
            return "too large"
        return "done"

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(create, range(16)))
    registry.close()
    assert outcomes == ["too large" if number == 5 else "done" for number in range(16)]
    assert len(registry.catalog.domains) == 15
    assert verify(LocalStore(tmp_path)).sound


def test_a_writer_who_lost_decides_again_on_what_the_winner_wrote(
    tmp_path: Path, operator: str
) -> None:
    registry = Registry(DoubtfulStore(tmp_path, "another wins"))
    # The winner wrote the very same domain: so it is so already, and nothing is written twice.
    assert registry.execute(CreateDomain("medical", Policy()), operator) == ()
    registry.close()
    assert verify(LocalStore(tmp_path)).commits == 2


def test_a_command_is_refused_alone_and_the_writer_lives_on(tmp_path: Path, operator: str) -> None:
    store = DoubtfulStore(tmp_path)
    registry = Registry(store)
    store.away = True
    with pytest.raises(StoreUnavailable):
        registry.execute(CreateDomain("medical", Policy()), operator)
    store.away = False
    assert registry.execute(CreateDomain("medical", Policy()), operator)
    registry.close()


def test_a_follower_keeps_what_it_read_while_the_store_is_away(
    tmp_path: Path, operator: str
) -> None:
    store = DoubtfulStore(tmp_path)
    follower = Follower(store)
    sequence = follower.refresh().sequence
    store.away = True
    with pytest.raises(StoreUnavailable):
        follower.refresh()
    assert follower.catalog.sequence == sequence
    assert operator in follower.catalog.keys


@pytest.mark.parametrize("away", [False, True])
def test_a_followers_first_look_is_waited_for_whether_or_not_it_finds_anything(
    tmp_path: Path, operator: str, away: bool
) -> None:
    store = DoubtfulStore(tmp_path)
    store.away = away
    follower = Follower(store, poll_seconds=60)
    follower.start()
    follower.wait_for_first_look(20)
    follower.stop()
    assert follower.has_read is not away
    assert (follower.error is not None) is away


def test_a_follower_outlives_an_error_that_is_unexpected(
    tmp_path: Path, operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = Follower(DoubtfulStore(tmp_path), poll_seconds=0.01)
    refresh, broken = follower.refresh, threading.Event()

    def once_broken() -> Catalog:
        if not broken.is_set():
            broken.set()
            raise RuntimeError("a bug")
        return refresh()

    monkeypatch.setattr(follower, "refresh", once_broken)
    follower.start()
    follower.wait_for_first_look(20)
    deadline = time.monotonic() + 20
    while not follower.has_read and time.monotonic() < deadline:
        time.sleep(0.01)
    follower.stop()
    assert broken.is_set()
    assert operator in follower.catalog.keys
    assert follower.error is None


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"sequence": 1}', b"\xff"])
def test_what_is_no_commit_breaks_the_chain(data: bytes) -> None:
    with pytest.raises(BrokenChain, match="Commit 1"):
        decode(data, 1)


def test_a_commit_of_a_newer_layout_asks_for_an_update() -> None:
    data = b'{"schema":2,"sequence":1,"id":"x","time":"t","previous":null,"entries":[]}'
    with pytest.raises(BrokenChain, match="Update Lorary"):
        decode(data, 1)
