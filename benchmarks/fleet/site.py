"""A fleet on this machine: an S3 server, a registry, real vLLM replicas, Envoy, Prometheus."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from adapters.base_model import BaseModel
from adapters.children import spawn
from adapters.home import SMALL_MODEL, default_model
from adapters.small_model import build
from registry.model.aliases import MoveAlias
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.publish.publishing import register_base
from registry.registry import Registry
from registry.store import open_store
from tests.support.front import Front, front
from tests.support.prometheus import Prometheus, Target, prometheus
from tests.support.s3 import BUCKET, s3_server
from tests.support.scenario import Scene, small_adapter
from tests.support.servers import BIN, free_port, registry_server

POOL = "pool"
SLOTS, MEMORY = 4, 8
"""Adapters in one batch, and in a replica's memory."""
START_SECONDS = 400
DRAIN_DELAY = 6.0


@dataclass
class Replica:
    """One vLLM and where it listens; its process changes when it is started again."""

    number: int
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its own address, past the front."""
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Fleet:
    """Everything that runs, and who may ask."""

    folder: Path
    store: str
    scene: Scene
    replicas: list[Replica]
    stack: contextlib.ExitStack
    fronts: dict[str, Front] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        """Of somebody who may do anything."""
        return {"Authorization": f"Bearer {self.scene.operator.text}"}

    def start(self, replica: Replica, *, wait: bool = True) -> None:
        """Start one, each on a core of its own; `wait` until it is ready."""
        environment = {
            "LORARY_STORE": self.store,
            "LORARY_ADAPTER_CACHE": str(self.folder / f"cache-{replica.number}"),
            "LORARY_MAX_LORAS": str(SLOTS),
            "LORARY_MAX_CPU_LORAS": str(MEMORY),
            "LORARY_DRAIN_DELAY_SECONDS": str(DRAIN_DELAY),
            "VLLM_CPU_OMP_THREADS_BIND": str(replica.number % (os.cpu_count() or 1)),
        }
        log = (self.folder / f"replica-{replica.number}.log").open("ab")
        command = [str(BIN / "lorary"), "serve", "--port", str(replica.port)]
        replica.process = spawn(command, log, environment=environment)
        self.stack.callback(kill, replica)
        if wait:
            self.wait(replica)

    def wait(self, replica: Replica) -> None:
        """Until it is ready."""
        deadline = time.monotonic() + START_SECONDS
        while not healthy(replica.url):
            ended = replica.process is None or replica.process.poll() is not None
            if ended or time.monotonic() > deadline:
                lines = (self.folder / f"replica-{replica.number}.log").read_text().splitlines()
                told = [line for line in lines if "rror" in line][:20] or lines[-20:]
                raise RuntimeError(f"replica {replica.number} did not start:\n" + "\n".join(told))
            time.sleep(0.5)

    def settle(self, count: int, name: str = "affinity") -> None:
        """Until a front sends to so many replicas."""
        deadline = time.monotonic() + 60
        while self.fronts[name].healthy(POOL) != count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the front never saw {count} replicas")
            time.sleep(0.2)
        time.sleep(1.5)

    def tiers(self) -> dict[str, float]:
        """Requests so far by where their adapter was, over all replicas that answer."""
        found: dict[str, float] = {}
        for replica in self.replicas:
            with contextlib.suppress(httpx.TransportError):
                page = httpx.get(f"{replica.url}/metrics", headers=self.headers, timeout=20).text
                for line in page.splitlines():
                    if line.startswith("lorary_tier_requests_total{"):
                        tier = line.split('"')[1]
                        found[tier] = found.get(tier, 0) + float(line.split()[-1])
        return found


def kill(replica: Replica, *, how: signal.Signals = signal.SIGKILL) -> None:
    """Let its whole group know; SIGTERM lets it leave in its own time."""
    if replica.process is not None and replica.process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            if how == signal.SIGTERM:
                replica.process.terminate()
            else:
                os.killpg(replica.process.pid, how)


def healthy(url: str) -> bool:
    """Whether a replica says that it is ready."""
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@contextlib.contextmanager
def fleet(folder: Path, *, replicas: int, adapters: int) -> Iterator[Fleet]:
    """All of it, each adapter of random weights and named by production."""
    build(default_model())
    base = BaseModel.from_directory(default_model(), SMALL_MODEL)
    with contextlib.ExitStack() as stack:
        s3 = stack.enter_context(s3_server(folder))
        os.environ.update(s3.environment)
        store = f"s3://{BUCKET}/fleet"
        opened = open_store(store, s3_endpoint=s3.endpoint)
        operator = Registry.create(opened, name="fleet", key_name="operator")
        registry = Registry(opened)
        stack.callback(registry.close)
        register_base(registry, base, operator.id)
        service = stack.enter_context(registry_server(store, folder))
        scene = Scene(registry, operator, base, "", service)
        made = Fleet(folder, store, scene, [], stack)
        for number in range(replicas):
            made.replicas.append(Replica(number, free_port()))
            made.start(made.replicas[-1], wait=False)
        _publish(scene, adapters)
        for replica in made.replicas:
            made.wait(replica)
        yield made


def names(adapters: int) -> list[str]:
    """The adapters of a fleet."""
    return [f"fleet/a{number:02d}" for number in range(adapters)]


def _publish(scene: Scene, adapters: int) -> None:
    actor = scene.operator.id
    scene.registry.execute(CreateDomain("fleet", Policy(guarded=())), actor)
    for number, path in enumerate(names(adapters)):
        domain, _, adapter = path.partition("/")
        small_adapter(scene, adapter, number, domain=domain)
        scene.registry.execute(MoveAlias(domain, adapter, "production", 1), actor)


def open_front(made: Fleet, name: str, **values: Any) -> Front:
    """An Envoy before all replicas, as the chart configures it."""
    folder = made.folder / f"front-{name}"
    folder.mkdir()
    ports = [replica.port for replica in made.replicas]
    made.fronts[name] = made.stack.enter_context(front({POOL: ports}, folder, **values))
    return made.fronts[name]


def watch(made: Fleet, name: str) -> Prometheus:
    """A Prometheus over replicas, registry and a front."""
    key = made.scene.operator.text
    targets = [
        Target("lorary-serving", urlsplit(replica.url).netloc, key=key, pool=POOL)
        for replica in made.replicas
    ]
    targets.append(Target("lorary-registry", urlsplit(made.scene.service).netloc, key=key))
    stats = urlsplit(made.fronts[name].stats).netloc
    targets.append(Target("lorary-front", stats, "/stats/prometheus"))
    return made.stack.enter_context(prometheus(targets, made.folder))
