"""The commit log under many writers, on both kinds of store."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from registry.errors import BrokenChain, Conflict
from registry.log import checkpoints
from registry.log.commits import CommitLog, commit_key
from registry.log.follower import Follower
from registry.maintain.verify import verify
from registry.model.aliases import MoveAlias
from registry.model.catalog import Catalog, Grant
from registry.model.domains import CreateDomain
from registry.model.keys import IssueKey, RevokeKey
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import ObjectStore, open_store
from tests.support.catalogs import publish_bytes

PROCESSES = 16
EACH = 6


def opened(url: str) -> ObjectStore:
    return open_store(url, s3_endpoint=os.environ.get("LORARY_S3_ENDPOINT"))


def test_sixteen_processes_commit_and_nothing_is_lost_or_doubled(
    store: ObjectStore, store_url: str
) -> None:
    operator = Registry.create(store, name="race", key_name="operator").id
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        jobs = [(store_url, operator, number) for number in range(PROCESSES)]
        acknowledged: Sequence[list[str]] = pool.starmap(_create_domains, jobs, 1)
    wanted = {domain for domains in acknowledged for domain in domains}
    assert len(wanted) == PROCESSES * EACH
    report = verify(store)
    assert report.sound, report.findings
    log, seen = CommitLog(store), list[str]()
    for sequence in range(1, report.commits + 1):
        stored = log.read(sequence)
        assert stored is not None
        seen += [e.event.domain for e in stored.commit.entries if hasattr(e.event, "domain")]
    assert sorted(seen) == sorted(wanted)
    assert set(checkpoints.load(store).domains) == wanted


def _create_domains(url: str, operator: str, number: int) -> list[str]:
    registry = Registry(opened(url))
    domains = [f"p{number}-{i}" for i in range(EACH)]
    for domain in domains:
        registry.execute(CreateDomain(domain, Policy()), operator)
    registry.close()
    return domains


def test_loser_of_an_alias_race_learns_who_won(store: ObjectStore) -> None:
    operator = Registry.create(store, name="alias", key_name="operator").id
    first, second = Registry(store), Registry(store)
    try:
        first.execute(CreateDomain("medical", Policy(guarded=())), operator)
        for seed in (1, 2):
            publish_bytes(first, operator, "medical", "coder", seed)
        first.execute(MoveAlias("medical", "coder", "production", 1, expected=0), operator)
        with pytest.raises(Conflict, match=f"{operator} moved it"):
            second.execute(MoveAlias("medical", "coder", "production", 2, expected=0), operator)
    finally:
        first.close()
        second.close()


def test_a_follower_sees_a_commit_of_another_process_within_its_poll(store: ObjectStore) -> None:
    operator = Registry.create(store, name="follow", key_name="operator").id
    follower = Follower(store, poll_seconds=0.2)
    follower.start()
    registry = Registry(store)
    registry.execute(CreateDomain("medical", Policy()), operator)
    deadline = time.monotonic() + 5
    while "medical" not in follower.catalog.domains and time.monotonic() < deadline:
        time.sleep(0.02)
    registry.close()
    follower.stop()
    assert "medical" in follower.catalog.domains
    assert follower.age_seconds < 5


def test_a_start_uses_the_checkpoint_and_survives_its_loss(store: ObjectStore) -> None:
    operator = Registry.create(store, name="checkpoints", key_name="operator").id
    registry = Registry(store)
    for number in range(checkpoints.EVERY + 5):
        registry.execute(CreateDomain(f"d{number}", Policy()), operator)
    registry.close()
    whole = checkpoints.load(store)
    assert store.get(checkpoints.LATEST) == str(checkpoints.EVERY).encode()
    for damage in (b"not json", b'{"layout": 1, "catalog": {}}'):
        store.put(checkpoints.checkpoint_key(checkpoints.EVERY), damage, "overwrite")
        assert checkpoints.load(store) == whole
    store.delete(checkpoints.LATEST)
    assert checkpoints.load(store) == whole
    # A changed checkpoint costs time only, but somebody changed it.
    [finding] = verify(store).findings
    assert finding.startswith(f"checkpoint {checkpoints.EVERY} was changed: it is not used")
    store.delete(checkpoints.checkpoint_key(checkpoints.EVERY))
    assert verify(store).sound


def test_a_changed_commit_breaks_the_chain(store: ObjectStore) -> None:
    operator = Registry.create(store, name="chain", key_name="operator").id
    registry = Registry(store)
    grants = (Grant("infer", "*"),)
    registry.execute(IssueKey("k1", "app", "0" * 64, grants), operator)
    registry.execute(RevokeKey("k1", "lost"), operator)
    registry.close()
    forged = store.get(commit_key(2)).replace(b'"infer"', b'"operate"')
    store.put(commit_key(2), forged, "overwrite")
    report = verify(store)
    assert not report.sound
    assert "does not follow" in report.findings[0]
    with pytest.raises(BrokenChain):
        Follower(store).refresh()


def test_a_missing_commit_is_found(store: ObjectStore) -> None:
    operator = Registry.create(store, name="gap", key_name="operator").id
    registry = Registry(store)
    for name in ("a", "b"):
        registry.execute(CreateDomain(name, Policy()), operator)
    registry.close()
    store.delete(commit_key(2))
    assert "commit 2 is missing" in verify(store).findings[0]


def test_a_writer_killed_again_and_again_loses_nothing_acknowledged(
    store: ObjectStore, store_url: str, tmp_path: Path
) -> None:
    operator = Registry.create(store, name="killed", key_name="operator").id
    acknowledged = tmp_path / "acknowledged"
    acknowledged.touch()
    for turn in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-m", "tests.support.writer", store_url, operator, str(turn)],
            stdout=acknowledged.open("ab"),
        )
        before = acknowledged.stat().st_size
        deadline = time.monotonic() + 20
        while acknowledged.stat().st_size < before + 40 and time.monotonic() < deadline:
            time.sleep(0.01)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    report = verify(store)
    assert report.sound, report.findings
    catalog: Catalog = checkpoints.load(store)
    names = acknowledged.read_text().rpartition("\n")[0].split()
    assert len(names) > 10
    assert set(names) <= set(catalog.domains)
