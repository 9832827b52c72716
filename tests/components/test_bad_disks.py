"""Adapters' disks that are full, rotten or left by a former process, under a real replica."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from registry.model.access import Secret
from registry.model.bases import RegisterBase
from registry.model.catalog import File
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.model.versions import PublishVersion
from registry.registry import Registry
from registry.store import LocalStore
from registry.store.blobs import Blobs, content_digest
from tests.support.catalogs import FACTS
from tests.support.servers import free_port, running

WEIGHTS = "adapter_model.safetensors"
MB = 1 << 20
DISK = 4 * MB
MEMORY = 2
"""Adapters in the engine's memory."""


@dataclass
class Site:
    """A registry, and one replica whose adapters lie on a small disk."""

    folder: Path
    cache: Path
    registry: Registry
    operator: Secret
    port: int = field(default_factory=free_port)
    said: dict[str, str] = field(default_factory=dict)
    """By pinned name, the SHA-256 of its weights."""
    digests: dict[str, str] = field(default_factory=dict)

    def publish(self, adapter: str, size: int) -> str:
        """A version of `size` random bytes; its pinned name."""
        weights = os.urandom(size)
        stored = Blobs(self.registry.store).put_bytes(weights)
        files = (File(WEIGHTS, size, stored),)
        digest = content_digest(files)
        command = PublishVersion("medical", adapter, digest, "tiny", files, FACTS)
        self.registry.execute(command, self.operator.id)
        name = f"medical/{adapter}@1"
        self.said[name] = hashlib.sha256(weights).hexdigest()
        self.digests[name] = digest
        return name

    @contextlib.contextmanager
    def replica(self) -> Iterator["Replica"]:
        """A replica's process over this disk."""
        environment = {
            "LORARY_STORE": str(self.folder / "store"),
            "LORARY_BASE_NAME": "tiny",
            "LORARY_ADAPTER_CACHE": str(self.cache),
            "LORARY_MAX_LORAS": str(MEMORY),
            "LORARY_MAX_CPU_LORAS": str(MEMORY),
        }
        url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "uvicorn", "tests.support.file_engine:app"]
        command += ["--port", str(self.port), "--log-level", "warning"]
        log = self.folder / "replica.log"
        headers = {"Authorization": f"Bearer {self.operator.text}"}
        with (
            running(command, log, ready=f"{url}/health", environment=environment),
            httpx.Client(base_url=url, headers=headers, timeout=30) as client,
        ):
            yield Replica(self, client)

    def weights(self, name: str) -> Path:
        """Where a version's weights lie on the replica's disk."""
        return self.cache / self.digests[name] / WEIGHTS


@dataclass
class Replica:
    """A running replica as its callers see it."""

    site: Site
    client: httpx.Client

    def ask(self, name: str) -> httpx.Response:
        return self.client.post("/v1/completions", json={"model": name, "prompt": "Well?"})

    def answers(self, name: str) -> bool:
        """Whether the version answers, with its own bytes."""
        reply = self.ask(name)
        if reply.status_code != 200:
            return False
        assert reply.headers["x-lorary-adapter"] == name
        assert reply.json()["choices"][0]["text"] == self.site.said[name]
        return True

    @property
    def downloads(self) -> float:
        """How many versions this process has brought from the store."""
        return self.metric('lorary_cold_load_phase_seconds_count{phase="download"}')

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[[Path], Site]]:
    with contextlib.ExitStack() as stack:

        def made(cache: Path) -> Site:
            store = LocalStore(tmp_path / "store")
            operator = Registry.create(store, name="disks", key_name="operator")
            registry = Registry(store)
            stack.callback(registry.close)
            shapes = Blobs(store).put_bytes(b"{}")
            registry.execute(RegisterBase("tiny", "0" * 64, shapes), operator.id)
            registry.execute(CreateDomain("medical", Policy(guarded=())), operator.id)
            return Site(tmp_path, cache, registry, operator)

        yield made


@pytest.fixture
def site(make_site: Callable[[Path], Site], tmp_path: Path) -> Site:
    return make_site(tmp_path / "cache")


@pytest.fixture
def small(make_site: Callable[[Path], Site], tmp_path: Path) -> Iterator[Site]:
    """A disk of four megabytes: a file system of its own, so that it really is full."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system; CI is root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk)], check=True)
    try:
        yield make_site(disk / "cache")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_what_does_not_fit_is_a_503_of_its_own_and_the_others_are_served(small: Site) -> None:
    first, second = small.publish("first", MB), small.publish("second", MB)
    huge = small.publish("huge", 5 * MB)
    with small.replica() as replica:
        assert replica.answers(first)
        assert replica.answers(second)
        refused = replica.ask(huge)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "disk_full"
        assert int(refused.headers["retry-after"]) >= 1
        assert str(small.cache) not in refused.text
        assert small.weights(first).exists(), "nothing is deleted in vain"
        assert replica.answers(first)
        assert replica.answers(second)
        assert replica.metric('lorary_refusals_total{code="disk_full"}') == 1


def test_a_full_disk_gives_back_what_is_idle_though_its_bound_is_far(small: Site) -> None:
    names = [small.publish(f"a{number}", MB) for number in range(8)]
    with small.replica() as replica:
        for _ in range(2):
            for name in names:
                assert replica.answers(name), replica.ask(name).text
        assert replica.metric("lorary_refusals_total") == 0
        assert replica.metric('lorary_evictions_total{tier="disk"}') >= len(names)
        assert replica.metric("lorary_cache_bytes ") <= DISK


def test_it_loads_as_soon_as_somebody_made_room(small: Site) -> None:
    name = small.publish("late", MB)
    ballast = small.cache.parent / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with small.replica() as replica:
        assert replica.ask(name).json()["error"]["code"] == "disk_full"
        ballast.unlink()
        settle(lambda: replica.answers(name))


def test_a_warm_disk_survives_a_restart_and_nothing_is_downloaded_again(site: Site) -> None:
    names = [site.publish(f"a{number}", 1000) for number in range(3)]
    with site.replica() as replica:
        assert all(replica.answers(name) for name in names)
        assert replica.downloads == 3
    shutil.rmtree(site.folder / "store" / "blobs")
    with site.replica() as replica:
        assert all(replica.answers(name) for name in names)
        assert replica.downloads == 0
        assert replica.metric('lorary_tier_requests_total{tier="disk"}') == 3


@pytest.mark.parametrize("harm", ["flipped bit", "cut short", "missing file", "missing folder"])
def test_what_rots_while_the_engine_holds_it_is_fetched_again_before_it_is_read_again(
    site: Site, harm: str
) -> None:
    name, *others = (site.publish(f"a{number}", 1000) for number in range(1 + MEMORY))
    with site.replica() as replica:
        assert replica.answers(name)
        spoil(site.weights(name), harm)
        assert replica.answers(name), "it is held in memory"
        for other in others:
            for _ in range(3):  # more popular, so that the first one has to go
                assert replica.answers(other)
        assert replica.metric("lorary_engine_names") == MEMORY
        assert replica.answers(name)
        assert replica.downloads == len(site.said) + 1


def test_damaged_bytes_are_not_served_though_nothing_else_is_to_be_had(site: Site) -> None:
    name, sound, *others = (site.publish(f"a{number}", 1000) for number in range(4))
    with site.replica() as replica:
        for each in (name, sound, *others):
            assert replica.answers(each)
        spoil(site.weights(name), "flipped bit")
        shutil.move(site.folder / "store" / "blobs", site.folder / "elsewhere")
        refused = replica.ask(name)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "cold_load_failed"
        assert replica.answers(sound)
        shutil.move(site.folder / "elsewhere", site.folder / "store" / "blobs")
        settle(lambda: replica.answers(name))


def spoil(weights: Path, harm: str) -> None:
    data = bytearray(weights.read_bytes())
    if harm == "flipped bit":
        data[500] ^= 1
        weights.write_bytes(data)
    elif harm == "cut short":
        weights.write_bytes(data[:500])
    elif harm == "missing file":
        weights.unlink()
    else:
        shutil.rmtree(weights.parent)


def settle(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never settled"
        time.sleep(0.2)
