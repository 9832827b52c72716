"""What leaves a registry and how: tombstones, retention, collection, export and import."""

import itertools
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import errors
from registry.log import checkpoints
from registry.maintain import archive
from registry.maintain.collection import collect
from registry.maintain.verify import verify
from registry.model.aliases import MoveAlias
from registry.model.bases import RegisterBase
from registry.model.catalog import Grant
from registry.model.collection import CondemnBlobs, blobs_in_use
from registry.model.domains import CreateDomain
from registry.model.keys import IssueKey
from registry.model.policies import Policy
from registry.model.reviews import CloseReview, JudgeItem, OpenReview
from registry.model.versions import PublishVersion, TombstoneVersion
from registry.registry import Registry
from registry.store import LocalStore, ObjectStore
from registry.store.blobs import Blobs, blob_key, content_digest
from tests.support.catalogs import FACTS, files, publish_bytes


def begin(store: ObjectStore, policy: Policy | None = None) -> tuple[Registry, str]:
    operator = Registry.create(store, name="life", key_name="operator").id
    registry = Registry(store)
    registry.execute(CreateDomain("medical", policy or Policy(guarded=())), operator)
    return registry, operator


def later() -> float:
    return time.time() + 10


def test_collection_removes_what_nothing_names_and_nothing_else(store: ObjectStore) -> None:
    registry, operator = begin(store)
    publish_bytes(registry, operator, "medical", "coder", 1)
    orphan = Blobs(store).put_bytes(b"nobody names this")
    store.put("uploads/sha256/aa/" + "a" * 64, b"a part", "create")
    dry = collect(registry, operator, apply=False, grace_seconds=0, clock=later)
    assert (dry.blobs, dry.parts) == (1, 1)
    assert not Blobs(store).missing([orphan])
    young = collect(registry, operator, apply=True, grace_seconds=3600)
    assert young.blobs == 0
    done = collect(registry, operator, apply=True, grace_seconds=0, clock=later)
    assert (done.blobs, done.parts) == (1, 1)
    assert Blobs(store).missing([orphan]) == {orphan}
    assert list(store.list("uploads/")) == []
    assert registry.catalog.condemned == ()
    registry.close()
    assert verify(store).sound


def test_a_tombstoned_version_is_gone_but_its_place_stays(local_store: LocalStore) -> None:
    registry, operator = begin(local_store)
    for seed in (1, 2):
        publish_bytes(registry, operator, "medical", "coder", seed)
    registry.execute(MoveAlias("medical", "coder", "live", 1), operator)
    with pytest.raises(errors.Conflict, match="live"):
        registry.execute(TombstoneVersion("medical", "coder", 1, "withdrawn"), operator)
    registry.execute(MoveAlias("medical", "coder", "live", 2), operator)
    registry.execute(TombstoneVersion("medical", "coder", 1, "withdrawn"), operator)
    with pytest.raises(errors.VersionGone, match="withdrawn"):
        registry.execute(MoveAlias("medical", "coder", "live", 1), operator)
    collect(registry, operator, apply=True, grace_seconds=0, clock=later)
    assert Blobs(local_store).missing([files(1)[0].sha256])
    assert not Blobs(local_store).missing([files(2)[0].sha256])
    publish_bytes(registry, operator, "medical", "coder", 3)
    assert len(registry.catalog.adapters["medical/coder"].versions) == 3
    registry.close()
    assert verify(local_store).sound


def test_retention_keeps_the_newest_and_whatever_an_alias_names(local_store: LocalStore) -> None:
    registry, operator = begin(local_store, Policy(guarded=(), keep=2))
    for seed in range(1, 6):
        publish_bytes(registry, operator, "medical", "coder", seed)
    registry.execute(MoveAlias("medical", "coder", "live", 2), operator)
    report = collect(registry, operator, apply=True, grace_seconds=0, clock=later)
    assert report.expired == ("medical/coder@1", "medical/coder@3")
    kept = [
        v.number for v in registry.catalog.adapters["medical/coder"].versions if not v.tombstone
    ]
    assert kept == [2, 4, 5]
    registry.close()


def test_while_a_collection_runs_nothing_can_be_published_that_it_removes(
    local_store: LocalStore,
) -> None:
    registry, operator = begin(local_store)
    blobs = Blobs(local_store)
    registry.execute(RegisterBase("tiny", "0" * 64, blobs.put_bytes(b"{}")), operator)
    blobs.put_bytes(b"weights 1")
    listed = files(1)
    registry.execute(CondemnBlobs((listed[0].sha256,)), operator)
    publish = PublishVersion("medical", "coder", content_digest(listed), "tiny", listed, FACTS)
    with pytest.raises(errors.BeingCollected):
        registry.execute(publish, operator)
    with pytest.raises(errors.BeingCollected, match="--resume"):
        collect(registry, operator, apply=True, grace_seconds=0, clock=later)
    collect(registry, operator, apply=True, resume=True, grace_seconds=0, clock=later)
    publish_checked(registry, operator, "coder", 1)
    registry.close()
    assert verify(local_store).sound


def test_a_blob_named_before_the_collection_commits_is_spared(local_store: LocalStore) -> None:
    registry, operator = begin(local_store)
    publish_bytes(registry, operator, "medical", "coder", 1)
    assert registry.execute(CondemnBlobs((files(1)[0].sha256,)), operator) == ()
    registry.close()


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    publishers=st.integers(1, 4),
    seeds=st.lists(st.integers(0, 5), min_size=3, max_size=10),
    collections=st.integers(1, 4),
)
def test_no_collection_takes_what_a_concurrent_push_published(
    tmp_path: Path, publishers: int, seeds: list[int], collections: int
) -> None:
    store = LocalStore(tmp_path / str(next(_folders)))
    registry, operator = begin(store)
    collector = Registry(store)
    failures: list[BaseException] = []

    def push(name: str) -> None:
        own = Registry(store)
        try:
            for seed in seeds:
                for _ in range(50):
                    try:
                        publish_checked(own, operator, name, seed)
                    except (errors.BeingCollected, errors.ContentMissing):
                        time.sleep(0.001)
                    else:
                        break
        except BaseException as error:
            failures.append(error)
        finally:
            own.close()

    threads = [threading.Thread(target=push, args=(f"a{n}",)) for n in range(publishers)]
    for thread in threads:
        thread.start()
    for _ in range(collections):
        # No grace at all, the hardest case: correctness must not rest on it.
        collect(collector, operator, apply=True, grace_seconds=-10)
    for thread in threads:
        thread.join()
    registry.close()
    collector.close()
    assert not failures
    report = verify(store)
    assert report.sound, report.findings


_folders = itertools.count()


def publish_checked(registry: Registry, actor: str, adapter: str, seed: int) -> None:
    """As a push does it: store what is missing, read it back, then commit."""
    registry.execute(prepared(registry, actor, adapter, seed), actor)


def prepared(registry: Registry, actor: str, adapter: str, seed: int) -> PublishVersion:
    """A publish whose blobs are stored and were read back, and that only needs its commit."""
    before = registry.refresh().sequence
    blobs, listed = Blobs(registry.store), files(seed)
    shapes = blobs.put_bytes(b"{}")
    if blobs.missing([listed[0].sha256]):
        blobs.put_bytes(f"weights {seed}".encode())
    try:
        blobs.verify(listed[0].sha256)
    except (errors.ObjectNotFound, errors.DigestMismatch) as error:
        raise errors.ContentMissing("gone") from error
    registry.execute(RegisterBase("tiny", "0" * 64, shapes, read_at=before), actor)
    return PublishVersion("medical", adapter, content_digest(listed), "tiny", listed, FACTS, before)


def test_a_collection_between_reading_and_committing_makes_the_push_repeat(
    local_store: LocalStore,
) -> None:
    registry, operator = begin(local_store)
    command = prepared(registry, operator, "coder", 1)
    done = collect(registry, operator, apply=True, grace_seconds=0, clock=later)
    assert done.blobs >= 1
    with pytest.raises(errors.BeingCollected):
        registry.execute(command, operator)
    publish_checked(registry, operator, "coder", 1)
    registry.close()
    assert verify(local_store).sound


def test_verify_finds_one_flipped_bit(store: ObjectStore) -> None:
    registry, operator = begin(store)
    publish_bytes(registry, operator, "medical", "coder", 1)
    registry.close()
    key = blob_key(files(1)[0].sha256)
    data = bytearray(store.get(key))
    data[3] ^= 4
    store.put(key, bytes(data), "overwrite")
    report = verify(store)
    assert not report.sound
    assert "medical/coder@1" in report.findings[0]


def test_an_exported_registry_is_the_same_registry_elsewhere(
    store: ObjectStore, tmp_path: Path
) -> None:
    registry, operator = begin(store)
    for seed in range(5):
        publish_bytes(registry, operator, "medical", "coder", seed)
    registry.execute(TombstoneVersion("medical", "coder", 1, "withdrawn"), operator)
    registry.close()
    path = tmp_path / "registry.tar"
    archive.export(store, path)
    elsewhere = LocalStore(tmp_path / "elsewhere")
    archive.import_(elsewhere, path)
    assert verify(elsewhere).sound
    assert checkpoints.load(elsewhere) == checkpoints.load(store)
    held = {info.key.rpartition("/")[2] for info in elsewhere.list("blobs/")}
    assert held == blobs_in_use(checkpoints.load(store))
    with pytest.raises(errors.Conflict, match="empty"):
        archive.import_(elsewhere, path)


@pytest.mark.parametrize(
    "spoil", ["outside", "link", "flipped blob", "missing blob", "edited commit", "no tar", "empty"]
)
def test_a_spoilt_export_leaves_no_registry(
    local_store: LocalStore, tmp_path: Path, spoil: str
) -> None:
    registry, operator = begin(local_store)
    publish_bytes(registry, operator, "medical", "coder", 1)
    registry.close()
    archive.export(local_store, tmp_path / "good.tar")
    bad = tmp_path / "bad.tar"
    if spoil == "no tar":
        bad.write_bytes(b"something else" * 100)
    else:
        _copy_spoilt(tmp_path / "good.tar", bad, spoil)
    target = LocalStore(tmp_path / "target")
    with pytest.raises((errors.BadRequest, errors.DigestMismatch, errors.BrokenChain)):
        archive.import_(target, bad)
    assert checkpoints.load(target).sequence == 0
    assert not (tmp_path / "escaped").exists()


def _copy_spoilt(good: Path, bad: Path, spoil: str) -> None:
    import io

    with tarfile.open(good) as source, tarfile.open(bad, "w") as target:
        blob_seen = False
        for entry in source if spoil != "empty" else []:
            content: Any = source.extractfile(entry)
            data = content.read()
            if entry.name.startswith("blobs/") and not blob_seen:
                blob_seen = True
                if spoil == "missing blob":
                    continue
                if spoil == "flipped blob":
                    data = bytes([data[0] ^ 1]) + data[1:]
            if spoil == "edited commit" and entry.name.endswith("2.json"):
                data = data.replace(b"medical", b"medicaI")
            target.addfile(entry, io.BytesIO(data))
        if spoil == "outside":
            info = tarfile.TarInfo("../escaped")
            info.size = 1
            target.addfile(info, io.BytesIO(b"x"))
        if spoil == "link":
            info = tarfile.TarInfo("log/00000000000000000009.json")
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            target.addfile(info)


@pytest.mark.parametrize(("days", "kept"), [(0, False), (30, True), (None, True)])
def test_a_collection_gives_up_the_texts_of_reviews_that_ended_long_enough_ago(
    tmp_path: Path, days: int | None, kept: bool
) -> None:
    store = LocalStore(tmp_path)
    registry, operator = begin(store)
    publish_bytes(registry, operator, "medical", "coder", 0)
    expert = IssueKey("expert", "expert", "0" * 64, (Grant("review", "medical"),))
    registry.execute(expert, operator)
    before = registry.refresh().sequence
    content, notes = (Blobs(store).put_bytes(text) for text in (b"[]", b'{"rationale": "why"}'))
    opened = OpenReview("r", "medical", "coder", (1,), "t", ("i",), content, days, before)
    registry.execute(opened, operator)
    said = JudgeItem("r", "i", ("correct",), notes=notes, read_at=before)
    registry.execute(said, "expert")
    collect(registry, operator, apply=True, grace_seconds=0, clock=later)
    assert not Blobs(store).missing({content, notes})
    registry.execute(CloseReview("r"), operator)
    collect(registry, operator, apply=True, grace_seconds=0, clock=later)
    missing = Blobs(store).missing({content, notes})
    assert missing == (set() if kept else {content, notes})
    assert registry.catalog.reviews["r"].judgements[0].verdicts == ("correct",)
    registry.close()
