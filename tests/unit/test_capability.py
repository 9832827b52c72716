"""A store that does not keep what the log rests on is refused, by the promise that it breaks."""

import os
import time
from collections.abc import Iterator
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from registry.cli import build
from registry.errors import (
    AlreadyExists,
    OutcomeUnknown,
    ReadOnly,
    StoreUnavailable,
    StoreUnfit,
)
from registry.settings import RegistrySettings
from registry.store import LocalStore, ObjectInfo, capability
from registry.store.base import PutMode
from registry.store.read_only import ReadOnlyStore


class IgnoresConditions(LocalStore):
    """As servers that accept `If-None-Match` and ignore it."""

    def put(self, key: str, data: bytes, mode: PutMode) -> None:
        super().put(key, data, "overwrite")


class LooksFirst(LocalStore):
    """As servers that look whether the key is there and then write: no race is decided."""

    def put(self, key: str, data: bytes, mode: PutMode) -> None:
        if mode == "create" and (self.root / key).exists():
            raise AlreadyExists("taken")
        time.sleep(0.02)
        super().put(key, data, "overwrite")


class RefusesAndWrites(LocalStore):
    def put(self, key: str, data: bytes, mode: PutMode) -> None:
        there = (self.root / key).exists()
        super().put(key, data, "overwrite")
        if mode == "create" and there:
            raise AlreadyExists("taken")


class ReadsOldContent(LocalStore):
    """As caches that answer with what was there before."""

    def put(self, key: str, data: bytes, mode: PutMode) -> None:
        if mode == "create" or not (self.root / key).exists():
            super().put(key, data, mode)


class ListsLater(LocalStore):
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return (info for info in super().list(prefix) if info.modified < time.time() - 0.5)


class KeepsDeleted(LocalStore):
    kept: ClassVar[set[str]] = set()

    def delete(self, key: str) -> None:
        if key in self.kept:
            super().delete(key)
        self.kept.add(key)


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (IgnoresConditions, "it ignores If-None-Match"),
        (LooksFirst, "several writers who created one key at once"),
        (RefusesAndWrites, "a write that was refused changed the object"),
        (ReadsOldContent, "an overwritten object still reads as before"),
        (ListsLater, "a listing lacks objects"),
        (KeepsDeleted, "a listing still has objects that were just deleted"),
    ],
)
def test_the_promise_that_is_not_kept_is_named_and_nothing_is_left_behind(
    local_store: LocalStore, kind: type[LocalStore], fault: str
) -> None:
    with pytest.raises(StoreUnfit, match=f"({fault}).*Use a server that honours conditional"):
        capability.check(kind(local_store.root))
    assert list(local_store.list("")) == []


def test_a_store_that_keeps_its_promises_passes_and_stays_as_it_was(
    local_store: LocalStore,
) -> None:
    local_store.put("log/1", b"x", "create")
    capability.check(local_store)
    assert [info.key for info in local_store.list("")] == ["log/1"]


def test_a_lost_reply_is_no_broken_promise(local_store: LocalStore) -> None:
    class LosesReplies(LocalStore):
        def put(self, key: str, data: bytes, mode: PutMode) -> None:
            super().put(key, data, mode)
            if mode == "create":
                raise OutcomeUnknown("no answer")

    capability.check(LosesReplies(local_store.root))
    assert list(local_store.list("")) == []


def test_what_a_killed_check_left_is_removed_by_a_later_one(local_store: LocalStore) -> None:
    old, new = f"{capability.PROBES}old/create", f"{capability.PROBES}new/create"
    for key in (old, new):
        local_store.put(key, b"x", "create")
    long_ago = time.time() - capability.STALE_SECONDS - 1
    os.utime(local_store.root / old, (long_ago, long_ago))
    capability.check(local_store)
    assert [info.key for info in local_store.list("")] == [new], "another check may be running"


def test_what_others_put_beside_the_probes_stays_and_stops_nothing(local_store: LocalStore) -> None:
    stray = local_store.root / "probe" / ".DS_Store"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"x")
    os.utime(stray, (1, 1))
    capability.check(local_store)
    assert stray.exists()


def test_a_store_that_cannot_be_written_says_how_to_serve_it_read_only(
    local_store: LocalStore,
) -> None:
    class Refuses(LocalStore):
        def put(self, key: str, data: bytes, mode: PutMode) -> None:
            raise StoreUnavailable("403. Check the key's permissions.")

    with pytest.raises(StoreUnavailable, match=r"permissions.*LORARY_READ_ONLY=true"):
        capability.check(Refuses(local_store.root))


def test_a_read_only_registry_tries_nothing(local_store: LocalStore) -> None:
    settings = RegistrySettings(store=str(local_store.root), read_only=True)
    settings.open_store_to_write()
    assert not local_store.root.exists()


@pytest.mark.parametrize("command", [["init"], ["gc", "--apply"]])
def test_commands_that_write_try_the_store_first(
    local_store: LocalStore, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("LORARY_STORE", str(local_store.root))
    monkeypatch.setattr(
        "registry.settings.open_store", lambda *_a, **_n: IgnoresConditions(local_store.root)
    )
    result = CliRunner().invoke(build(), command)
    assert isinstance(result.exception, StoreUnfit)
    assert list(local_store.list("")) == []


def test_a_read_only_store_gives_nobody_a_way_to_write(local_store: LocalStore) -> None:
    with pytest.raises(ReadOnly):
        ReadOnlyStore(local_store).signed_put("key", sha256="0" * 64, size=1)
