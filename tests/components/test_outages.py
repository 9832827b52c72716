"""Eight publishers push 120 versions while everything around them is stopped, killed, restarted."""

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from registry import errors
from registry.client import RegistryClient
from registry.maintain.verify import verify
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import ObjectStore, open_store
from tests.support.adapters import TINY, write_adapter
from tests.support.s3 import BUCKET, S3Server, create_bucket, s3_command
from tests.support.servers import free_port, registry_server, running

PUBLISHERS, EACH = 8, 15
OUTAGE = 12.0
ATTEMPTS = 400
RETRIABLE = (errors.StoreError, errors.ContentMissing)


class World:
    """An S3 server and two registries over it, each of which can be ended and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._command, self.endpoint = s3_command(folder)
        self._s3 = contextlib.ExitStack()
        self._registries = [contextlib.ExitStack(), contextlib.ExitStack()]
        self._ports = [free_port(), free_port()]
        self.store_url = f"s3://{BUCKET}/outages"

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self._ports]

    def start_s3(self) -> None:
        self._s3.enter_context(
            running(self._command, self.folder / "weed.log", ready=self.endpoint)
        )

    def stop_s3(self) -> None:
        self._s3.close()

    def start(self, number: int) -> None:
        server = registry_server(self.store_url, self.folder, port=self._ports[number])
        self._registries[number].enter_context(server)

    def stop(self, number: int) -> None:
        self._registries[number].close()

    def kill(self, number: int) -> None:
        for process in psutil.process_iter(["cmdline"]):
            if str(self._ports[number]) in (process.info["cmdline"] or []):
                process.kill()
        self._registries[number].close()

    def close(self) -> None:
        for registry in self._registries:
            registry.close()
        self._s3.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in S3Server(made.endpoint).environment.items():
            patch.setenv(name, value)
        made.start_s3()
        create_bucket(made.endpoint)
        yield made
        made.close()


def test_what_was_acknowledged_is_there_and_nothing_else(world: World, tmp_path: Path) -> None:
    store: ObjectStore = open_store(world.store_url, s3_endpoint=world.endpoint)
    operator = Registry.create(store, name="outages", key_name="operator").text
    for number in (0, 1):
        world.start(number)
    with RegistryClient(world.urls[0], operator) as client:
        client.execute(CreateDomain("medical", Policy(guarded=())))
        client.add_base(TINY)
    acknowledged: dict[str, str] = {}
    refusals: list[Exception] = []
    counting = threading.Lock()

    def publisher(number: int) -> None:
        for turn in range(EACH):
            directory = write_adapter(tmp_path / f"p{number}", seed=1000 * number + turn)
            _push_until_acknowledged(directory, number, turn)

    def _push_until_acknowledged(directory: Path, number: int, turn: int) -> None:
        for attempt in range(ATTEMPTS):
            url = world.urls[(number + attempt) % 2]
            try:
                with RegistryClient(url, operator, timeout=60) as client:
                    version = client.push(directory, f"medical/p{number}")
            except Exception as error:
                with counting:
                    refusals.append(error)
                time.sleep(0.2)
            else:
                assert version["version"] == turn + 1
                with counting:
                    acknowledged[version["ref"]] = version["digest"]
                return
        raise AssertionError(f"publisher {number} never got version {turn + 1} through")

    def done(share: float) -> None:
        while len(acknowledged) < share * PUBLISHERS * EACH:
            time.sleep(0.05)
            assert not any(f.done() and f.exception() for f in futures)

    with ThreadPoolExecutor(PUBLISHERS) as pool:
        futures = [pool.submit(publisher, number) for number in range(PUBLISHERS)]
        done(0.15)
        world.stop(0)
        world.start(0)
        done(0.35)
        world.stop_s3()
        time.sleep(OUTAGE)
        world.start_s3()
        done(0.6)
        world.kill(1)
        done(0.8)
        world.start(1)
        for future in futures:
            future.result()

    strange = [error for error in refusals if not isinstance(error, RETRIABLE)]
    assert not strange, strange[:3]
    assert refusals, "the outages were not noticed: nothing was tested"
    report = verify(store)
    assert report.sound, report.findings
    final = Registry(store)
    catalog = final.refresh()
    final.close()
    there = {
        str(version.ref): version.digest
        for adapter in catalog.adapters.values()
        for version in adapter.versions
    }
    assert there == acknowledged
    assert len(there) == PUBLISHERS * EACH
