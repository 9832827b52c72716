"""A registry that shall only be read for a while: reading goes on, nothing changes, and whoever
tries is told so."""

import hashlib
from pathlib import Path

import httpx
import pytest

from adapters.errors import LoraryError
from registry.client import RegistryClient
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore, ObjectStore
from tests.support.adapters import write_adapter
from tests.support.catalogs import publish_bytes
from tests.support.servers import registry_server


def contents(store: LocalStore) -> dict[str, bytes]:
    return {info.key: store.get(info.key) for info in store.list("")}


def test_reading_goes_on_and_every_write_is_refused_with_the_reason(
    local_store: LocalStore, tmp_path: Path
) -> None:
    operator = Registry.create(local_store, name="test", key_name="operator")
    registry = Registry(local_store)
    registry.execute(CreateDomain("medical", Policy(guarded=())), operator.id)
    publish_bytes(registry, operator.id, "medical", "coder", 1)
    registry.close()
    before = contents(local_store)
    path = "/api/v1/adapters/medical/coder"
    blob = hashlib.sha256(b"new").hexdigest()
    with (
        registry_server(local_store.url, tmp_path, {"LORARY_READ_ONLY": "true"}) as url,
        RegistryClient(url, operator.text) as client,
    ):
        assert [adapter["path"] for adapter in client.adapters()] == ["medical/coder"]
        assert client.resolve("medical/coder@1")["version"] == 1
        headers = {"Authorization": f"Bearer {operator.text}"}
        for method, where, body in (
            ("PUT", f"{path}/aliases/live", {"json": {"version": 1}}),
            ("POST", f"{path}/versions/1/revocation", {"json": {"reason": "wrong"}}),
            ("POST", "/api/v1/domains", {"json": {"domain": "legal"}}),
            ("PUT", f"/api/v1/blobs/{blob}", {"content": b"new"}),
            ("PUT", f"/api/v1/parts/{blob}", {"content": b"new"}),
        ):
            reply = httpx.request(method, f"{url}{where}", headers=headers, **body)
            assert reply.status_code == 503, (where, reply.text)
            assert reply.json()["error"]["code"] == "read_only"
            assert int(reply.headers["retry-after"]) >= 60
        with pytest.raises(LoraryError, match="read-only"):
            client.push(write_adapter(tmp_path / "adapter"), "medical/coder")
    assert contents(local_store) == before


def test_no_way_around_is_handed_out(s3_store: ObjectStore) -> None:
    store = RegistrySettings(store=s3_store.url, read_only=True).open_store()
    with pytest.raises(LoraryError, match="read-only"):
        store.signed_put("blobs/sha256/aa/a", sha256="a" * 64, size=1)
