"""Several replicas of one registry, in processes of their own, and the ordinary OpenAI client."""

import contextlib
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

from registry.model.access import Secret
from registry.model.aliases import MoveAlias
from registry.model.bases import RegisterBase
from registry.model.catalog import File
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.model.versions import PublishVersion, RevokeVersion
from registry.registry import Registry
from registry.store import LocalStore, ObjectStore
from registry.store.blobs import Blobs, content_digest
from tests.support.catalogs import FACTS
from tests.support.servers import free_port, running

REPLICAS = 3


class Fleet:
    """Replicas that follow one registry."""

    def __init__(
        self, registry: Registry, operator: Secret, urls: list[str], restart: Callable[[int], None]
    ) -> None:
        self.registry, self.operator, self.urls = registry, operator, urls
        self.restart = restart
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def publish(self, number: int) -> str:
        """A version of `medical/coder`, production moved to it; its name."""
        blobs = Blobs(self.registry.store)
        files = tuple(
            File(name, len(data), blobs.put_bytes(data))
            for name, data in (
                ("adapter_config.json", b"{}"),
                ("adapter_model.safetensors", b"weights %d" % number),
            )
        )
        actor, digest = self.operator.id, content_digest(files)
        command = PublishVersion("medical", "coder", digest, "tiny", files, FACTS)
        self.registry.execute(command, actor)
        version = len(self.registry.catalog.adapters["medical/coder"].versions)
        self.registry.execute(MoveAlias("medical", "coder", "production", version), actor)
        return f"medical/coder@{version}"

    def status(self, url: str, model: str) -> int:
        """What a replica answers for `model`."""
        body = {"model": model, "messages": [{"role": "user", "content": "Well?"}]}
        headers = {"Authorization": f"Bearer {self.operator.text}"}
        reply = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=30)
        return reply.status_code

    def wait(self, url: str, model: str, status: int) -> float:
        """Seconds until a replica answers so."""
        began = time.monotonic()
        while self.status(url, model) != status:
            assert time.monotonic() - began < 20, f"{url} never answered {status} for {model}"
            time.sleep(0.01)
        return time.monotonic() - began


@contextlib.contextmanager
def fleet_over(
    store: ObjectStore, store_url: str, folder: Path, count: int, **settings: str
) -> Iterator[Fleet]:
    operator = Registry.create(store, name="fleet", key_name="operator")
    registry = Registry(store)
    shapes = Blobs(store).put_bytes(b"{}")
    registry.execute(RegisterBase("tiny", "0" * 64, shapes), operator.id)
    registry.execute(CreateDomain("medical", Policy(guarded=())), operator.id)
    ports = [free_port() for _ in range(count)]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    stacks = [contextlib.ExitStack() for _ in range(count)]

    def start(number: int) -> None:
        """Start a replica, after its former process ended as an operator ends it."""
        stacks[number].close()
        environment = {
            "LORARY_STORE": store_url,
            "LORARY_BASE_NAME": "tiny",
            "LORARY_ADAPTER_CACHE": str(folder / f"cache-{number}"),
            **settings,
        }
        command = [sys.executable, "-m", "uvicorn", "tests.support.replica_app:app"]
        command += ["--port", str(ports[number]), "--log-level", "warning"]
        log = folder / f"replica-{number}.log"
        ready = f"{urls[number]}/health"
        fleet.processes[number] = stacks[number].enter_context(
            running(command, log, ready=ready, environment=environment)
        )

    fleet = Fleet(registry, operator, urls, start)
    with contextlib.ExitStack() as all_of_them:
        for number, stack in enumerate(stacks):
            all_of_them.enter_context(stack)
            start(number)
        yield fleet
    registry.close()


def test_a_revoked_version_is_soon_refused_by_every_replica(
    s3_store: ObjectStore, tmp_path: Path
) -> None:
    with fleet_over(s3_store, s3_store.url, tmp_path, REPLICAS) as fleet:
        took: list[float] = []
        for number in range(4):
            name = fleet.publish(number)
            with ThreadPoolExecutor(REPLICAS) as pool:
                list(pool.map(lambda url, n=name: fleet.wait(url, n, 200), fleet.urls))
                command = RevokeVersion("medical", "coder", number + 1, "wrong for sepsis")
                fleet.registry.execute(command, fleet.operator.id)
                took += pool.map(lambda url, n=name: fleet.wait(url, n, 410), fleet.urls)
        # A poll is one second; a loaded machine adds its own.
        assert max(took) <= 5.0, took
        print("seconds until refused:", sorted(round(seconds, 2) for seconds in took))


def test_a_rolling_restart_loses_no_request(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    with fleet_over(store, store.url, tmp_path, REPLICAS) as fleet:
        fleet.publish(0)
        for url in fleet.urls:
            fleet.wait(url, "medical/coder", 200)
        over = threading.Event()

        def work(number: int) -> Counter[str]:
            """Ask one replica after the other, and the next one again where one says so."""
            said = Counter[str]()
            clients = [
                openai.OpenAI(base_url=f"{url}/v1", api_key=fleet.operator.text, max_retries=0)
                for url in fleet.urls
            ]
            turn = number
            while not over.is_set():
                for attempt in range(20):
                    turn += 1
                    try:
                        said[str(ask(clients[turn % REPLICAS], str(number % 2)))] += 1
                        break
                    except openai.APIConnectionError:
                        said["no connection"] += 1
                    except openai.InternalServerError as error:
                        said[str(error.code)] += 1
                    time.sleep(0.02 * attempt)
                else:
                    said["lost"] += 1
            for client in clients:
                client.close()
            return said

        with ThreadPoolExecutor(6) as pool:
            working = [pool.submit(work, number) for number in range(6)]
            for number in range(REPLICAS):
                fleet.restart(number)
            over.set()
            said = sum((future.result() for future in working), Counter[str]())
        assert said["Yes."] > 50
        assert set(said) <= {"Yes.", "shutting_down", "no connection"}, said


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Fleet]:
    store = LocalStore(tmp_path / "store")
    limits = {"LORARY_KEY_REQUESTS_PER_MINUTE": "60"}
    with fleet_over(store, store.url, tmp_path, 1, **limits) as fleet:
        fleet.publish(0)
        fleet.wait(fleet.urls[0], "medical/coder", 200)
        yield fleet


def test_the_openai_client_waits_as_long_as_a_limit_says_and_then_succeeds(limited: Fleet) -> None:
    client = openai.OpenAI(
        base_url=f"{limited.urls[0]}/v1", api_key=limited.operator.text, max_retries=4
    )
    impatient = client.with_options(max_retries=0)
    with client:
        with pytest.raises(openai.RateLimitError) as refused:
            [ask(impatient, "Well?") for _ in range(70)]
        assert refused.value.code == "rate_limit_exceeded"
        wait = float(refused.value.response.headers["retry-after"])
        began = time.monotonic()
        assert ask(client, "Well?") == "Yes."
        assert time.monotonic() - began >= 0.5 * wait


def test_the_openai_clients_own_timeout_leaves_the_replica_well(limited: Fleet) -> None:
    client = openai.OpenAI(
        base_url=f"{limited.urls[0]}/v1", api_key=limited.operator.text, max_retries=0
    )
    with client:
        with pytest.raises(openai.APITimeoutError):
            ask(client.with_options(timeout=0.3), "5")
        assert ask(client, "Well?") == "Yes."


def ask(client: openai.OpenAI, prompt: str) -> str | None:
    answer = client.chat.completions.create(
        model="medical/coder", messages=[{"role": "user", "content": prompt}]
    )
    return answer.choices[0].message.content
