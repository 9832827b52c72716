"""What is read of a blob is what was stored, or visibly less."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from registry.errors import DigestMismatch, ReadOnly
from registry.http import create_app
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from registry.store.blobs import Blobs, blob_key, part_key
from registry.store.read_only import ReadOnlyStore
from tests.support.catalogs import files, publish_bytes

PIECE = 1 << 20


@pytest.mark.parametrize("length", [1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE // 2])
def test_whoever_gets_all_bytes_of_a_blob_gets_the_right_ones(
    local_store: LocalStore, length: int
) -> None:
    """HTTP clients take an answer for whole that has as many bytes as were announced."""
    whole = (bytes(range(251)) * (length // 251 + 1))[:length]
    blobs, digest = Blobs(local_store), hashlib.sha256(whole).hexdigest()
    assert blobs.put_bytes(whole) == digest
    assert b"".join(blobs.stream(digest, length)) == whole
    for place in {0, length // 2, length - 1}:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        local_store.put(blob_key(digest), bytes(damaged), "overwrite")
        got = list[int]()
        with pytest.raises(DigestMismatch):
            got.extend(map(len, blobs.stream(digest, length)))
        assert sum(got) < length


def test_a_read_only_store_changes_nothing_by_any_method(
    local_store: LocalStore, tmp_path: Path
) -> None:
    blobs, digest = Blobs(local_store), hashlib.sha256(b"x").hexdigest()
    blobs.put_bytes(b"x")
    key, closed = blob_key(digest), ReadOnlyStore(local_store)
    (tmp_path / "y").write_bytes(b"y")
    changes: list[Callable[[], object]] = [
        lambda: closed.put(key, b"y", "overwrite"),
        lambda: closed.put(part_key(digest), b"y", "create"),
        lambda: closed.put_file(key, tmp_path / "y", sha256=digest),
        lambda: closed.put_stream(key, iter([b"y"])),
        lambda: closed.signed_put(key, sha256=digest, size=1),
        lambda: closed.delete(key),
    ]
    for change in changes:
        with pytest.raises(ReadOnly):
            change()
    assert [info.key for info in closed.list("")] == [key]
    assert closed.get(key) == b"x"


def test_an_empty_blob_is_verified(local_store: LocalStore) -> None:
    blobs, digest = Blobs(local_store), hashlib.sha256(b"x").hexdigest()
    assert list(blobs.stream(blobs.put_bytes(b""), 0)) == []
    local_store.put(blob_key(digest), b"", "overwrite")
    with pytest.raises(DigestMismatch):
        list(blobs.stream(digest))


@pytest.fixture
def client(local_store: LocalStore) -> TestClient:
    """A registry with a version of one file, that takes files of 1,000 bytes."""
    operator = Registry.create(local_store, name="r", key_name="operator")
    registry = Registry(local_store)
    registry.execute(CreateDomain("medical", Policy()), operator.id)
    publish_bytes(registry, operator.id, "medical", "coder", 1)
    registry.close()
    app = create_app(RegistrySettings(store=local_store.url, max_upload_bytes=1000))
    return TestClient(app, headers={"Authorization": f"Bearer {operator.text}"})


@pytest.mark.parametrize("span", [None, "bytes=0-", "bytes=0-8", "bytes=0-99999"])
def test_a_damaged_blob_is_not_answered_whole_by_whatever_range(
    client: TestClient, local_store: LocalStore, span: str | None
) -> None:
    [file] = files(1)
    address = f"/medical/coder/resolve/1/{file.path}"
    headers = {} if span is None else {"Range": span}
    data = local_store.get(blob_key(file.sha256))
    assert len(data) == 9
    answer = client.get(address, headers=headers)
    assert (answer.status_code, answer.content) == (206 if span else 200, data)
    local_store.put(blob_key(file.sha256), b"WEIGHTS 1", "overwrite")
    with pytest.raises(RuntimeError, match="response already started"):  # it breaks off
        client.get(address, headers=headers)


def test_one_part_named_many_times_makes_no_file_above_the_limit(
    client: TestClient, local_store: LocalStore
) -> None:
    part = b"x" * 500
    digest = hashlib.sha256(part).hexdigest()
    for times, status in ((3, 413), (2, 204)):
        assert client.put(f"/api/v1/parts/{digest}", content=part).status_code == 204
        whole = hashlib.sha256(part * times).hexdigest()
        body = {"parts": [digest] * times}
        answer = client.post(f"/api/v1/uploads/{whole}/assembly", json=body)
        assert answer.status_code == status, answer.text
        assert (not Blobs(local_store).missing([whole])) == (status == 204)
    assert list(local_store.list(part_key(digest))) == []
