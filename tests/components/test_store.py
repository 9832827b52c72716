"""The promises of `ObjectStore`, kept by a local directory and by a real S3 server alike."""

import base64
import hashlib
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from registry.errors import (
    AlreadyExists,
    DigestMismatch,
    ObjectNotFound,
    OutcomeUnknown,
    StoreError,
)
from registry.store import ObjectStore, open_store
from registry.store.base import PutMode


def test_what_was_put_is_read_back(store: ObjectStore) -> None:
    store.put("a/b.json", b"one", "create")
    assert store.get("a/b.json") == b"one"
    assert store.head("a/b.json").size == 3
    assert b"".join(store.stream("a/b.json", chunk=2)) == b"one"


def test_a_stream_may_begin_in_the_middle(store: ObjectStore) -> None:
    store.put("key", b"0123456789", "create")
    assert b"".join(store.stream("key", start=4, chunk=3)) == b"456789"


def test_a_listing_tells_when_an_object_was_written(store: ObjectStore) -> None:
    before = time.time()
    store.put("key", b"x", "create")
    (info,) = store.list("key")
    assert before - 2 <= info.modified <= time.time() + 2
    assert abs(store.head("key").modified - info.modified) <= 1


@pytest.mark.parametrize("sizes", [[], [0], [3], [8 << 20], [5 << 20, 1, 6 << 20, 9 << 20]])
def test_a_stream_is_stored_whole(store: ObjectStore, sizes: list[int]) -> None:
    pieces = [os.urandom(size) for size in sizes]
    store.put_stream("whole", iter(pieces))
    assert store.get("whole") == b"".join(pieces)


def test_of_a_stream_that_breaks_off_nothing_appears(store: ObjectStore) -> None:
    def breaking() -> Iterator[bytes]:
        yield os.urandom(9 << 20)
        raise DigestMismatch("not what was declared")

    with pytest.raises(DigestMismatch):
        store.put_stream("broken", breaking())
    with pytest.raises(ObjectNotFound):
        store.get("broken")
    assert list(store.list("")) == []


def test_a_signed_put_takes_exactly_the_signed_content(s3_store: ObjectStore) -> None:
    data = b"signed content"
    signed = s3_store.signed_put("blob", sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    assert signed is not None
    without = {"content-length": str(len(data))}
    for content, headers in (
        (b"another content"[: len(data)], signed.headers),  # not what its checksum says
        (data, without),  # the checksum left out
        (b"another content"[: len(data)], {**signed.headers, **_checksum(b"another content")}),
    ):
        assert httpx.put(signed.url, content=content, headers=dict(headers)).is_error
    with pytest.raises(ObjectNotFound):
        s3_store.get("blob")
    assert httpx.put(signed.url, content=data, headers=dict(signed.headers)).is_success
    url = s3_store.signed_get("blob")
    assert url is not None
    assert httpx.get(url, headers={"Range": "bytes=7-"}).content == b"content"
    assert httpx.get(url.replace("X-Amz-Signature=", "X-Amz-Signature=0")).status_code == 403


def _checksum(data: bytes) -> dict[str, str]:
    return {"x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(data).digest()).decode()}


def test_a_missing_object_is_not_found(store: ObjectStore) -> None:
    with pytest.raises(ObjectNotFound):
        store.get("nothing")
    with pytest.raises(ObjectNotFound):
        store.head("nothing")
    with pytest.raises(ObjectNotFound):
        list(store.stream("nothing"))


def test_create_does_not_replace(store: ObjectStore) -> None:
    store.put("key", b"first", "create")
    with pytest.raises(AlreadyExists):
        store.put("key", b"second", "create")
    assert store.get("key") == b"first"


def test_overwrite_replaces(store: ObjectStore) -> None:
    mode: PutMode = "overwrite"
    store.put("key", b"first", mode)
    store.put("key", b"second", mode)
    assert store.get("key") == b"second"


def test_listing_finds_what_was_just_put_and_only_below_the_prefix(store: ObjectStore) -> None:
    for key in ("log/1", "log/2", "logs/3", "blobs/4"):
        store.put(key, b"x", "create")
    assert {info.key for info in store.list("log/")} == {"log/1", "log/2"}
    assert {info.key for info in store.list("log")} == {"log/1", "log/2", "logs/3"}
    assert list(store.list("none/")) == []


def test_a_deleted_object_is_gone_and_deleting_again_is_no_error(store: ObjectStore) -> None:
    store.put("key", b"x", "create")
    store.delete("key")
    store.delete("key")
    with pytest.raises(ObjectNotFound):
        store.get("key")


def test_a_file_is_stored_whole(store: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3 << 20))
    store.put_file("blob", path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert store.get("blob") == path.read_bytes()


def test_s3_refuses_bytes_that_are_not_the_declared_ones(
    s3_store: ObjectStore, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"something else")
    with pytest.raises(DigestMismatch):
        s3_store.put_file("blob", tmp_path / "file", sha256="0" * 64)


@pytest.mark.parametrize("key", ["", "/x", "../x", "a/../b", "a//b", "a/", ".tmp/x", "a\\b", "ä"])
def test_malformed_keys_are_refused(store: ObjectStore, key: str) -> None:
    with pytest.raises(ValueError, match="not a store key"):
        store.put(key, b"x", "create")


def test_one_of_sixteen_threads_creates(store: ObjectStore) -> None:
    def attempt(number: int) -> bool:
        return _creates(store, "race", str(number).encode())

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(attempt, range(16)))
    assert won.count(True) == 1
    assert store.get("race") == str(won.index(True)).encode()


def test_one_of_sixteen_processes_creates(store: ObjectStore, store_url: str) -> None:
    with multiprocessing.get_context("spawn").Pool(16) as pool:
        won: Sequence[bool] = pool.starmap(_race, [(store_url, n) for n in range(16)], 1)
    assert list(won).count(True) == 1
    assert store.get("race") == str(list(won).index(True)).encode()


def _race(url: str, number: int) -> bool:
    store = open_store(url, s3_endpoint=os.environ.get("LORARY_S3_ENDPOINT"))
    return _creates(store, "race", str(number).encode())


def _creates(store: ObjectStore, key: str, data: bytes) -> bool:
    """Whether we won, by the rule that a doubt is settled by reading back."""
    try:
        store.put(key, data, "create")
    except AlreadyExists:
        return False
    except OutcomeUnknown:
        return store.get(key) == data
    except StoreError as error:
        raise AssertionError(error) from error
    return True
