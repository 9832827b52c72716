"""An older Lorary meets a newer one's log, and a newer one an older log."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.errors import BrokenChain, NewerLog, Outdated
from registry.log import checkpoints
from registry.log.commits import SCHEMA, CommitLog, commit_key, decode, follow
from registry.log.follower import Follower
from registry.maintain import archive
from registry.maintain.verify import verify
from registry.model.base import Entry
from registry.model.catalog import Catalog
from registry.model.domains import CreateDomain, DomainCreated
from registry.model.feedback import FeedbackGiven
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import LocalStore

GOLDEN = Path(__file__).parents[1] / "support" / "golden"


@pytest.fixture
def registry(local_store: LocalStore) -> Iterator[Registry]:
    """A registry with one domain."""
    operator = Registry.create(local_store, name="test", key_name="operator")
    made = Registry(local_store)
    made.execute(CreateDomain("medical", Policy()), operator.id)
    yield made
    made.close()


def append(store: LocalStore, *entries: dict[str, Any], schema: int = SCHEMA) -> int:
    """What a newer Lorary writes next."""
    catalog = checkpoints.load(store)
    commit = {
        "schema": schema,
        "sequence": catalog.sequence + 1,
        "id": "0" * 32,
        "time": "2030-01-01T00:00:00Z",
        "previous": catalog.head,
        "entries": list(entries),
        "unheard_of": True,
    }
    store.put(commit_key(catalog.sequence + 1), json.dumps(commit).encode(), "create")
    return catalog.sequence + 1


def told(optional: bool | None, kind: str = "MoodRecorded") -> dict[str, Any]:
    entry: dict[str, Any] = {"actor": "future", "event": {"type": kind, "mood": {"a": [1, 2]}}}
    return entry if optional is None else {**entry, "optional": optional}


KNOWN = {
    "actor": "future",
    "event": {"type": "DomainCreated", "domain": "legal", "policy": {}, "new field": 1},
}


def test_an_event_that_may_be_passed_over_is_and_all_around_it_is_read(
    local_store: LocalStore, registry: Registry
) -> None:
    append(local_store, told(optional=True), KNOWN, told(optional=True, kind="TeaServed"))
    follower = Follower(local_store)
    catalog = follower.refresh()
    assert "legal" in catalog.domains
    assert catalog.passed_over == 2
    assert registry.refresh() == catalog


def test_who_passed_something_over_reads_on_but_writes_nothing(
    local_store: LocalStore, registry: Registry
) -> None:
    last = append(local_store, told(optional=True))
    with pytest.raises(Outdated, match="Update it"):
        registry.execute(CreateDomain("tax", Policy()), "bootstrap")
    assert CommitLog(local_store).read(last + 1) is None
    assert registry.refresh().sequence == last


def test_who_passed_something_over_neither_exports_nor_imports_nor_calls_it_sound(
    local_store: LocalStore, registry: Registry, tmp_path: Path
) -> None:
    """Nobody knows which blobs an unknown event needs."""
    archive.export(local_store, tmp_path / "before.tar")
    last = append(local_store, told(optional=True))
    with pytest.raises(Outdated):
        archive.export(local_store, tmp_path / "after.tar")
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["before.tar"]
    with tarfile.open(tmp_path / "before.tar") as opened:
        data = local_store.get(commit_key(last))
        info = tarfile.TarInfo(commit_key(last))
        info.size = len(data)
        *kept, _ = [(entry, opened.extractfile(entry)) for entry in opened]
        with tarfile.open(tmp_path / "newer.tar", "w") as written:
            for entry, content in kept:
                written.addfile(entry, content)
            written.addfile(info, io.BytesIO(data))
    target = LocalStore(tmp_path / "target")
    with pytest.raises(Outdated):
        archive.import_(target, tmp_path / "newer.tar", without_trailer=True)
    assert list(target.list("")) == []
    report = verify(local_store)
    assert (report.findings, report.sound) == ((), False)
    assert "1 event(s) that a newer Lorary wrote" in report.unread[0]


@pytest.mark.parametrize("optional", [False, None])
def test_an_event_that_must_be_understood_stops_the_reader_where_it_is(
    local_store: LocalStore, registry: Registry, optional: bool | None
) -> None:
    follower = Follower(local_store)
    before = follower.refresh()
    last = append(local_store, KNOWN, told(optional))
    said = f"Commit {last} holds a 'MoodRecorded' event.*Update Lorary"
    with pytest.raises(NewerLog, match=said):
        follower.refresh()
    assert follower.catalog == before, "what was read stays, half a commit is never read"
    with pytest.raises(NewerLog):
        registry.execute(CreateDomain("tax", Policy()), "bootstrap")
    with pytest.raises(NewerLog):
        Follower(local_store).refresh()


def test_a_commit_of_a_newer_schema_stops_the_reader_whatever_it_holds(
    local_store: LocalStore, registry: Registry
) -> None:
    append(local_store, told(optional=True), schema=SCHEMA + 1)
    with pytest.raises(NewerLog, match=f"schema {SCHEMA + 1}. Update Lorary"):
        registry.refresh()


def test_a_known_event_that_is_damaged_is_no_newer_one(
    local_store: LocalStore, registry: Registry
) -> None:
    damaged = {"actor": "x", "event": {"type": "DomainCreated", "domain": 7}, "optional": True}
    append(local_store, damaged)
    with pytest.raises(BrokenChain) as refused:
        registry.refresh()
    assert not isinstance(refused.value, NewerLog)


def test_what_is_optional_says_so_in_the_log_and_what_is_not_does_not(
    local_store: LocalStore, registry: Registry
) -> None:
    opinion = FeedbackGiven(
        domain="medical",
        adapter="coder",
        version=1,
        response="chatcmpl-1",
        answered=1,
        asker="app",
        rating="positive",
    )
    catalog = registry.refresh()
    domain = DomainCreated(domain="legal", policy=Policy())
    entries = [Entry("app", opinion), Entry("app", domain)]
    stored = CommitLog(local_store).append(catalog, entries, catalog.time)
    written = json.loads(local_store.get(commit_key(stored.commit.sequence)))
    assert [entry.get("optional") for entry in written["entries"]] == [True, None]


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.jsonl")), ids=lambda path: path.stem)
def test_logs_that_older_loraries_wrote_are_read_as_ever(path: Path) -> None:
    """One commit a line, as it lay in the store. Never edit these files: add one."""
    catalog = Catalog()
    for sequence, line in enumerate(path.read_bytes().splitlines(), start=1):
        catalog = follow(catalog, decode(line, sequence))
    assert catalog.passed_over == 0
    expected = json.loads(path.with_suffix(".json").read_text())
    seen = {
        "domains": sorted(catalog.domains),
        "adapters": {p: a.aliases for p, a in catalog.adapters.items()},
        "versions": {p: len(a.versions) for p, a in catalog.adapters.items()},
        "keys": {k.name: k.revoked for k in catalog.keys.values()},
        "head": catalog.head,
    }
    assert seen == expected


def test_what_was_passed_over_stays_so_however_the_log_goes_on(
    local_store: LocalStore, registry: Registry
) -> None:
    append(local_store, told(optional=True))
    append(local_store, KNOWN)
    assert registry.refresh().passed_over == 1
    with pytest.raises(Outdated):
        registry.execute(CreateDomain("tax", Policy()), "bootstrap")
