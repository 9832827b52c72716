"""A checkpoint saves time and is never trusted over the log."""

import json
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest

from registry.errors import BrokenChain, NewerLog, Unauthenticated
from registry.log import checkpoints
from registry.log.commits import CommitLog, catch_up, commit_key
from registry.log.follower import Follower
from registry.log.layout import LAYOUT
from registry.maintain.verify import verify
from registry.model.access import Secret, authenticate
from registry.model.catalog import Catalog
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import LocalStore
from tests.support.commits import rewrite
from tests.unit.test_old_data import LOG, folded, write

NOW = "2030-01-01T00:00:00Z"


@pytest.fixture
def operator(local_store: LocalStore) -> Secret:
    return Registry.create(local_store, name="test", key_name="operator")


@pytest.fixture
def store(local_store: LocalStore, operator: Secret) -> LocalStore:
    """A log of 108 commits with checkpoints of commits 50 and 100."""
    domains(local_store, operator, 107)
    assert names(local_store) == ["50", "100"]
    return local_store


def domains(store: LocalStore, operator: Secret, count: int, prefix: str = "d") -> None:
    registry = Registry(store)
    for number in range(count):
        registry.execute(CreateDomain(f"{prefix}{number}", Policy()), operator.id)
    registry.close()


def names(store: LocalStore) -> list[str]:
    found = sorted(info.key for info in store.list("checkpoints/0"))
    return [key[len("checkpoints/") :].removesuffix(".json").lstrip("0") for key in found]


class Counting(LocalStore):
    """Counts what is read."""

    def __init__(self, store: LocalStore) -> None:
        super().__init__(store.root)
        self.reads: Counter[str] = Counter()

    def get(self, key: str) -> bytes:
        self.reads[key.partition("/")[0]] += 1
        return super().get(key)


def poison(store: LocalStore, sequence: int, key: Secret) -> None:
    """Insert an operator whom the log does not know."""
    where = checkpoints.checkpoint_key(sequence)
    held: dict[str, Any] = json.loads(store.get(where))
    held["catalog"]["keys"][key.id] = {
        "id": key.id,
        "name": "ghost",
        "secret_sha256": key.digest,
        "grants": [{"role": "operate", "domain": "*"}],
        "issued": "2026-01-01T00:00:00Z",
    }
    store.put(where, json.dumps(held).encode(), "overwrite")


@pytest.mark.parametrize("sequence", [50, 100])
def test_an_operator_inserted_into_a_checkpoint_opens_nothing(
    store: LocalStore, sequence: int
) -> None:
    ghost = Secret.generate()
    poison(store, sequence, ghost)
    store.put(checkpoints.LATEST, str(sequence).encode(), "overwrite")
    for catalog in (Registry(store).refresh(), Follower(store).refresh()):
        with pytest.raises(Unauthenticated):
            authenticate(catalog, ghost, NOW)
        assert catalog == catch_up(CommitLog(store), Catalog())
    report = verify(store)
    assert [f"checkpoint {sequence} was changed" in finding for finding in report.findings] == [
        True
    ]


def test_a_forged_checkpoint_that_no_commit_confirms_is_not_used(
    store: LocalStore, operator: Secret
) -> None:
    ghost, truth = Secret.generate(), checkpoints.load(store)
    checkpoints.write(store, checkpoints.make(truth))
    poison(store, truth.sequence, ghost)
    for _ in range(2):
        assert ghost.id not in checkpoints.load(store).keys
        domains(store, operator, 1, "later")


def test_a_start_reads_what_follows_the_newest_checkpoint_and_no_more(store: LocalStore) -> None:
    counting = Counting(store)
    assert checkpoints.load(counting).sequence == 108
    # The hint and one checkpoint; commits 101 (which confirms it) to 108, the first twice, the end.
    assert counting.reads == {"checkpoints": 2, "log": 10}


@pytest.mark.parametrize("spoil", ["lost", "cut", "poisoned"])
def test_the_newest_checkpoints_loss_costs_no_more_than_going_back_to_the_one_before(
    store: LocalStore, spoil: str
) -> None:
    truth, key = checkpoints.load(store), checkpoints.checkpoint_key(100)
    if spoil == "lost":
        store.delete(key)
    elif spoil == "cut":
        store.put(key, store.get(key)[:-20], "overwrite")
    else:
        poison(store, 100, Secret.generate())
    counting = Counting(store)
    assert checkpoints.load(counting) == truth
    assert counting.reads["log"] < 65


@pytest.mark.parametrize(
    "hint", ["abc", "-1", "0", "9" * 23, "٣", "1e9", "", " 100\n", "7", "108", "109"]
)
def test_a_hint_is_only_a_hint(store: LocalStore, hint: str) -> None:
    truth = checkpoints.load(store)
    store.put(checkpoints.LATEST, hint.encode(), "overwrite")
    counting = Counting(store)
    assert checkpoints.load(counting) == truth
    assert counting.reads["log"] < 15


def test_a_newer_log_is_not_taken_for_a_broken_one(store: LocalStore) -> None:
    last = checkpoints.load(store)
    commit = {
        "schema": 1, "sequence": 109, "id": "0" * 32, "time": NOW, "previous": last.head,
        "entries": [{"actor": "x", "event": {"type": "NotYetInvented"}}],
    }  # fmt: skip
    store.put(commit_key(109), json.dumps(commit).encode(), "create")
    counting = Counting(store)
    with pytest.raises(NewerLog):
        checkpoints.load(counting)
    assert counting.reads["log"] < 15, "the log is not read again from its beginning"


def test_a_broken_log_is_reported_though_its_checkpoint_is_sound(store: LocalStore) -> None:
    store.put(commit_key(105), b'{"no": "commit"}', "overwrite")
    with pytest.raises(BrokenChain, match="Commit 105"):
        checkpoints.load(store)


def test_a_log_of_an_older_version_gets_its_checkpoint_with_the_next_commit(
    local_store: LocalStore,
) -> None:
    lines = LOG.read_bytes().splitlines()
    write(local_store, lines)
    before = folded(lines)
    operator = next(key for key in before.keys.values() if key.name == "operator")
    registry = Registry(local_store)
    for name in ("first", "second"):
        registry.execute(CreateDomain(name, Policy()), operator.id)
    registry.close()
    assert names(local_store) == [str(before.sequence)]
    counting = Counting(local_store)
    assert checkpoints.load(counting).sequence == before.sequence + 2
    assert counting.reads["log"] == 4


def test_a_checkpoint_of_another_layout_is_not_used(store: LocalStore) -> None:
    """Another Lorary wrote it, which did not know one of the fields, and the log confirms it."""
    where = checkpoints.checkpoint_key(100)
    before = store.get(where)
    held: dict[str, Any] = json.loads(before)
    held["layout"] = "0" * 64
    held["catalog"]["domains"] = {}
    data = json.dumps(held).encode()
    store.put(where, data, "overwrite")
    rewrite(store, 101, LAYOUT.encode(), b"0" * 64)
    rewrite(store, 101, sha256(before).hexdigest().encode(), sha256(data).hexdigest().encode())
    assert checkpoints.load(store) == catch_up(CommitLog(store), Catalog())


def test_every_process_makes_the_same_bytes_of_the_same_state(store: LocalStore) -> None:
    loaded = checkpoints.load(store)
    replayed = catch_up(CommitLog(store), Catalog())
    assert checkpoints.make(loaded) == checkpoints.make(replayed)


def test_commits_name_a_checkpoint_only_where_one_was_due(store: LocalStore) -> None:
    def said() -> Iterator[int]:
        for sequence in range(1, 109):
            if "checkpoint" in json.loads(store.get(commit_key(sequence))):
                yield sequence

    assert list(said()) == [51, 101]
