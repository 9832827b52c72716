"""Large files: in parts, resumed, nothing twice, verified, on both stores."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from adapters.base_model import BaseModel
from registry import errors
from registry.client import RegistryClient
from registry.client.downloading import RANGE
from registry.client.uploading import PART, describe
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import ObjectStore
from registry.store.blobs import Blobs
from tests.support.adapters import write_adapter
from tests.support.servers import registry_in_thread

WIDE = BaseModel(
    name="wide",
    digest="1" * 64,
    modules={f"model.layers.{n}.mlp.up_proj": (65536, 16384) for n in range(4)},
)
"""Rank 16 on these makes an adapter of 20 MiB: ten parts and the header."""


@pytest.fixture
def registry(store: ObjectStore, store_url: str) -> Iterator[tuple[RegistryClient, str]]:
    key = Registry.create(store, name="transfers", key_name="operator").text
    with registry_in_thread(store_url) as url, RegistryClient(url, key) as client:
        client.execute(CreateDomain("medical", Policy(guarded=())))
        client.add_base(WIDE)
        yield client, url


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", WIDE, rank=16)


class Sent:
    """Adds up what a transfer reports as moved."""

    def __init__(self) -> None:
        self.first: dict[str, int] = {}

    def __call__(self, name: str, done: int, _total: int) -> None:
        self.first.setdefault(name, done)


def test_a_large_file_goes_up_in_parts_and_comes_back_whole(
    registry: tuple[RegistryClient, str], store: ObjectStore, adapter: Path, tmp_path: Path
) -> None:
    client, _ = registry
    weights = adapter / "adapter_model.safetensors"
    described = describe("weights", weights)
    assert len(described.parts) == 11
    version = client.push(adapter, "medical/coder")
    assert {info.key for info in store.list("uploads/")} == set()
    client.pull(version["ref"], tmp_path / "out")
    assert (tmp_path / "out" / weights.name).read_bytes() == weights.read_bytes()
    assert not list((tmp_path / "out").glob(".*"))


def test_nothing_is_sent_twice_across_adapters_and_versions(
    registry: tuple[RegistryClient, str], adapter: Path
) -> None:
    client, _ = registry
    client.push(adapter, "medical/first")
    sent = Sent()
    client.push(adapter, "medical/second", progress=sent)
    assert sent.first == {}


def test_parts_that_arrived_before_a_kill_are_not_sent_again(
    registry: tuple[RegistryClient, str], store: ObjectStore, adapter: Path
) -> None:
    client, url = registry
    issued = client.issue_key("p", ["publish:medical"])["key"]
    code = (
        "import sys, time, pathlib\n"
        "from registry.client import RegistryClient\n"
        "def slowly(*_): time.sleep(0.02)\n"
        "RegistryClient(sys.argv[1], sys.argv[2]).push("
        "pathlib.Path(sys.argv[3]), 'medical/coder', parallel=1, progress=slowly)\n"
    )
    pusher = subprocess.Popen([sys.executable, "-c", code, url, issued, str(adapter)])
    deadline = time.monotonic() + 60
    while not list(store.list("uploads/")) and time.monotonic() < deadline:
        time.sleep(0.02)
    pusher.send_signal(signal.SIGKILL)
    pusher.wait()
    arrived = sum(info.size for info in store.list("uploads/"))
    assert arrived >= PART
    assert client.adapters() == []
    sent = Sent()
    version = client.push(adapter, "medical/coder", parallel=1, progress=sent)
    assert version["version"] == 1
    # What the second push begins with is what it did not send.
    assert sent.first["adapter_model.safetensors"] >= arrived


def test_a_broken_pull_goes_on_where_it_stopped(
    registry: tuple[RegistryClient, str], adapter: Path, tmp_path: Path
) -> None:
    client, _ = registry
    version = client.push(adapter, "medical/coder")
    out = tmp_path / "out"

    class Stop(Exception):
        pass

    def stop(name: str, done: int, _total: int) -> None:
        if name.endswith("safetensors") and done > RANGE + 100_000:
            raise Stop

    with pytest.raises(Stop):
        client.pull(version["ref"], out, parallel=1, progress=stop)
    assert not (out / "adapter_model.safetensors").exists()
    sent = Sent()
    client.pull(version["ref"], out, progress=sent)
    assert sent.first["adapter_model.safetensors"] >= RANGE
    weights = adapter / "adapter_model.safetensors"
    assert (out / weights.name).read_bytes() == weights.read_bytes()


def test_parts_that_do_not_make_the_file_are_refused(
    registry: tuple[RegistryClient, str], store: ObjectStore, adapter: Path
) -> None:
    client, _ = registry
    described = describe("weights", adapter / "adapter_model.safetensors")
    parts = [part.sha256 for part in described.parts]
    with pytest.raises(errors.Conflict, match="not here yet"):
        client.call("POST", f"/uploads/{described.sha256}/assembly", json={"parts": parts})
    client.push(adapter, "medical/coder")
    Blobs(store).discard(described.sha256)
    store.put(f"uploads/sha256/{parts[0][:2]}/{parts[0]}", os.urandom(PART), "overwrite")
    wrong = {"parts": [parts[0]]}
    with pytest.raises(errors.DigestMismatch):
        client.call("POST", f"/uploads/{described.sha256}/assembly", json=wrong)
    assert Blobs(store).missing([described.sha256])


def test_a_damaged_blob_does_not_stand_in_the_way_of_its_own_repair(
    registry: tuple[RegistryClient, str], store: ObjectStore, adapter: Path
) -> None:
    client, _ = registry
    first = client.push(adapter, "medical/coder")
    weights = next(f for f in first["files"] if f["path"] == "adapter_model.safetensors")
    sha256 = weights["sha256"]
    key = f"blobs/sha256/{sha256[:2]}/{sha256}"
    data = bytearray(store.get(key))
    data[-1] ^= 1
    store.put(key, bytes(data), "overwrite")
    client.push(adapter, "medical/other")
    Blobs(store).verify(sha256)


@pytest.mark.parametrize("span", ["bytes=5-9", "bytes=5-", "bytes=0-0"])
def test_a_range_of_a_file_is_exactly_that_range(
    registry: tuple[RegistryClient, str], adapter: Path, span: str
) -> None:
    client, url = registry
    key = client.issue_key("reader", ["infer:medical"])["key"]
    client.push(adapter, "medical/coder")
    reply = httpx.get(
        f"{url}/api/v1/files/medical/coder@1",
        params={"path": "README.md"},
        headers={"Authorization": f"Bearer {key}", "Range": span},
        follow_redirects=True,
    )
    first, _, last = span.removeprefix("bytes=").partition("-")
    card = (adapter / "README.md").read_bytes()
    assert reply.status_code == 206
    assert reply.content == card[int(first) : int(last) + 1 if last else None]
