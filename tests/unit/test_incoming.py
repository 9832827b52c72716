"""Content on its way into the registry, by every door that takes bytes."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from registry import errors
from registry.envelope import headers_of
from registry.http.app import create_app
from registry.http.transfers import answer_file
from registry.maintain.archive import import_
from registry.model.catalog import File
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.publish.incoming import incoming
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from registry.store.blobs import Blobs, blob_key

LIMIT = 1 << 16
DATA = bytes(range(256)) * 16
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[TestClient, Blobs]]:
    """The service in this process, asked with an operator's key."""
    store = LocalStore(tmp_path / "store")
    secret = Registry.create(store, name="test", key_name="operator")
    app = create_app(RegistrySettings(store=str(store.root), max_upload_bytes=LIMIT))
    app.state.registry.execute(CreateDomain("medical", Policy()), secret.id)
    headers = {"Authorization": f"Bearer {secret.text}", "Origin": "http://testserver"}
    with TestClient(app, headers=headers) as client:
        yield client, Blobs(store)


def test_what_came_is_measured_and_hashed_and_its_file_goes() -> None:
    with incoming() as content:
        for start in range(0, len(DATA), 1000):
            content.add(DATA[start : start + 1000])
        path = content.path
        assert (content.size, content.sha256) == (len(DATA), SHA256)
        assert path.read_bytes() == DATA
    assert not path.exists()


def test_the_api_takes_what_the_digest_names_and_no_more(
    service: tuple[TestClient, Blobs],
) -> None:
    client, blobs = service
    assert client.put(f"/api/v1/blobs/{SHA256}", content=DATA).status_code == 204
    assert blobs.get(SHA256) == DATA
    other = hashlib.sha256(b"other").hexdigest()
    refused = client.put(f"/api/v1/blobs/{other}", content=DATA)
    assert refused.json()["error"]["code"] == "digest_mismatch"
    assert f"The {len(DATA)} bytes that came" in refused.json()["error"]["message"]
    more = client.put(f"/api/v1/blobs/{other}", content=bytes(LIMIT + 1))
    assert more.json()["error"]["code"] == "too_large"
    assert blobs.missing([other]) == {other}


def test_git_lfs_takes_what_its_ticket_names_and_no_more(
    service: tuple[TestClient, Blobs],
) -> None:
    client, blobs = service
    batch = "/medical/coder.git/info/lfs/objects/batch"
    wanted = {"objects": [{"oid": SHA256, "size": len(DATA)}]}
    (answer,) = client.post(batch, json=wanted).json()["objects"]
    href = answer["actions"]["upload"]["href"]
    refused = {DATA[:-1]: 422, DATA[::-1]: 422, DATA + b"x": 413, DATA * 1000: 413}
    for wrong, status in refused.items():
        assert client.put(href, content=wrong).status_code == status
        assert blobs.missing([SHA256]) == {SHA256}
    assert client.put(href, content=DATA).status_code == 200
    assert blobs.get(SHA256) == DATA
    large = {"objects": [{"oid": "0" * 64, "size": LIMIT + 1}]}
    (answer,) = client.post(batch, json=large).json()["objects"]
    assert answer["error"]["code"] == 413
    assert "actions" not in answer


def test_the_form_stores_what_it_took(service: tuple[TestClient, Blobs]) -> None:
    client, blobs = service
    key = client.headers["authorization"].removeprefix("Bearer ")
    assert client.post("/login", data={"key": key}, follow_redirects=False).status_code == 303
    files = {"files": ("folder/adapter_model.safetensors", DATA)}
    answer = client.post("/upload", data={"domain": "medical", "adapter": "coder"}, files=files)
    assert "it names the base model" in answer.text
    assert blobs.get(SHA256) == DATA


def test_an_import_takes_no_blob_of_another_digest(tmp_path: Path) -> None:
    path = tmp_path / "registry.tar"
    for named, error in ((SHA256, errors.BadRequest), ("0" * 64, errors.DigestMismatch)):
        with tarfile.open(path, "w") as archive:
            entry = tarfile.TarInfo(blob_key(named))
            entry.size = len(DATA)
            archive.addfile(entry, io.BytesIO(DATA))
        elsewhere = LocalStore(tmp_path / named)
        with pytest.raises(error):
            import_(elsewhere, path)
        assert list(elsewhere.list("")) == [], "all of it is checked before anything is stored"


def test_a_range_outside_a_file_is_416_with_the_files_size(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    digest = Blobs(store).put_bytes(DATA)
    with pytest.raises(errors.RangeNotSatisfiable) as refused:
        answer_file(store, File("README.md", len(DATA), digest), "bytes=9999-", direct=False)
    assert refused.value.status == 416
    assert headers_of(refused.value) == {"content-range": f"bytes */{len(DATA)}"}


@pytest.mark.parametrize("last", [len(DATA) - 1, len(DATA), 10**9, ""])
def test_a_range_ends_with_the_file(tmp_path: Path, last: int | str) -> None:
    store = LocalStore(tmp_path / "store")
    digest = Blobs(store).put_bytes(DATA)
    file = File("README.md", len(DATA), digest)
    answer = answer_file(store, file, f"bytes=10-{last}", direct=False)
    assert answer.headers["content-range"] == f"bytes 10-{len(DATA) - 1}/{len(DATA)}"
    assert answer.headers["content-length"] == str(len(DATA) - 10)


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1])
def test_a_file_has_the_size_that_is_listed(tmp_path: Path, size: int) -> None:
    blobs = Blobs(LocalStore(tmp_path / "store"))
    digest = blobs.put_bytes(DATA)
    blobs.verify(digest, len(DATA))
    with pytest.raises(errors.DigestMismatch):
        blobs.verify(digest, size)
