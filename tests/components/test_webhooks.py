"""Events reach other systems: nothing is lost and each adapter's order is kept, whatever dies."""

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.client import RegistryClient
from registry.errors import Overloaded
from registry.http.events import PER_KEY
from registry.model.access import Secret
from registry.model.aliases import MoveAlias
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import LocalStore
from tests.support.catalogs import publish_bytes
from tests.support.receiver import Receiver
from tests.support.servers import BIN, free_port, running

WAIT = 300
"""Seconds for what takes a few on an idle machine."""
SECRET = "a secret of the operator that is long enough"


@dataclass
class Site:
    """A store, its registry processes, and a receiver."""

    store: LocalStore
    operator: Secret
    folder: Path
    receiver: Receiver = field(default_factory=Receiver)
    settings: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    _seed: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serving(self, port: int | None = None) -> "AbstractContextManager[subprocess.Popen[bytes]]":
        port = port or self.port
        return running(
            [str(BIN / "lorary"), "serve-registry", "--port", str(port)],
            self.folder / f"registry-{port}-{time.monotonic_ns()}.log",
            ready=f"http://127.0.0.1:{port}/health",
            environment={
                "LORARY_STORE": self.store.url,
                "LORARY_WEBHOOK_SECRET": SECRET,
                "LORARY_WEBHOOK_HOSTS": f"127.0.0.1:{self.receiver.port}",
                **self.settings,
            },
            seconds=WAIT,
        )

    def client(self) -> RegistryClient:
        return RegistryClient(self.url, self.operator.text)

    def hook(self) -> str:
        with self.client() as client:
            added = client.add_webhook(self.receiver.url)
        self.receiver.secret = added["secret"]
        return str(added["id"])

    def publish(self, adapter: str) -> None:
        """A version of an adapter, and an alias that points to it."""
        registry = Registry(self.store)
        self._seed += 1
        publish_bytes(registry, self.operator.id, "medical", adapter, self._seed)
        number = len(registry.catalog.adapters[f"medical/{adapter}"].versions)
        registry.execute(MoveAlias("medical", adapter, "production", number), self.operator.id)
        registry.close()

    def expected(self) -> list[dict[str, Any]]:
        """Every event, read as a page."""
        with self.client() as client:
            return list(client.events())

    def lorary(self, *arguments: str) -> str:
        environment = {"LORARY_REGISTRY_URL": self.url, "LORARY_KEY": self.operator.text}
        done = subprocess.run(
            [str(BIN / "lorary"), *arguments],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def site(local_store: LocalStore, tmp_path: Path) -> Iterator[Site]:
    operator = Registry.create(local_store, name="hospital", key_name="operator")
    registry = Registry(local_store)
    registry.execute(CreateDomain("medical", Policy(guarded=())), operator.id)
    registry.close()
    made = Site(local_store, operator, tmp_path)
    made.receiver.start()
    yield made
    made.receiver.stop()


def adapter_of(event: dict[str, Any]) -> str:
    return str(event["subject"]).split("@")[0]


def check_order(events: list[dict[str, Any]], arrived: list[dict[str, Any]]) -> None:
    """Each adapter's events were first taken in the log's order, and are those of the page."""
    first = {event["id"]: event for event in reversed(arrived)}
    assert first == {event["id"]: event for event in events}
    seen = list(dict.fromkeys(event["id"] for event in arrived))
    for path in {adapter_of(event) for event in events}:
        expected = [event["id"] for event in events if adapter_of(event) == path]
        assert [one for one in seen if one in set(expected)] == expected


def flaky(chance: random.Random) -> Callable[[dict[str, Any]], int]:
    def answer(_: dict[str, Any]) -> int:
        if chance.random() < 0.1:
            time.sleep(1)
        return chance.choice((200, 202, 204, 204, 204, 204, 500, 301, 0))

    return answer


def test_nothing_is_lost_when_the_registry_is_killed_and_the_receiver_fails_and_dies(
    site: Site,
) -> None:
    site.receiver.answer = flaky(random.Random(1))
    with site.serving() as process:
        site.hook()
        for number in range(9):
            site.publish("abc"[number % 3])
        deadline = time.monotonic() + WAIT
        while len(site.receiver.arrived) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 4 <= len({event["id"] for event in site.receiver.arrived}) < 18
    site.receiver.stop()
    site.publish("a")
    with site.serving():
        site.publish("b")
        time.sleep(2)
        site.receiver.start()
        site.publish("c")
        events = site.expected()
        assert len(events) == 24
        site.receiver.wait_for({event["id"] for event in events}, WAIT)
    check_order(events, site.receiver.arrived)
    assert site.receiver.faults == []
    assert site.receiver.refused, "the receiver never failed"


def test_a_failing_adapter_holds_up_no_other_and_its_events_become_dead_letters(
    site: Site,
) -> None:
    site.settings["LORARY_WEBHOOK_GIVE_UP_HOURS"] = str(6 / 3600)
    site.receiver.answer = lambda event: 500 if adapter_of(event) == "medical/a" else 204
    with site.serving():
        hook = site.hook()
        for adapter in "abab":
            site.publish(adapter)
        events = site.expected()
        others = {event["id"] for event in events if adapter_of(event) == "medical/b"}
        site.receiver.wait_for(others, WAIT)
        failing = {event["id"] for event in events} - others
        with site.client() as client:
            deadline, dead = time.monotonic() + WAIT, set[str]()
            while dead != failing and time.monotonic() < deadline:
                time.sleep(0.5)
                dead = {one["event"] for one in client.dead_letters(hook)["dead_letters"]}
            assert dead == failing
        headers = {"Authorization": f"Bearer {site.operator.text}"}
        metrics = httpx.get(f"{site.url}/metrics", headers=headers, timeout=WAIT).text
        assert f'lorary_webhook_dead_letters{{webhook="{hook}"}} 4.0' in metrics
        assert f'lorary_webhook_lag_commits{{webhook="{hook}"}} 0.0' in metrics
        assert f'deliveries_total{{outcome="delivered",webhook="{hook}"}}' in metrics
        assert f'deliveries_total{{outcome="dead",webhook="{hook}"}}' in metrics
        assert "the receiver answered 500" in site.lorary("webhook", "dead-letters", hook, "--json")
        site.receiver.answer = lambda _: 204
        assert "4 sent again" in site.lorary("webhook", "retry", hook)
        site.receiver.wait_for({event["id"] for event in events}, WAIT)
        check_order(events, site.receiver.arrived)
        assert hook in site.lorary("webhook", "ls")
        assert "alias.promoted" in site.lorary("events", "--after", "4")
        site.lorary("webhook", "rm", hook)
        assert site.lorary("webhook", "ls", "--json").strip() == "[]"
    assert site.receiver.faults == []


def test_of_two_processes_one_delivers_and_the_other_follows_it_at_once(site: Site) -> None:
    with site.serving() as first:
        site.hook()
        site.publish("a")
        site.receiver.wait_for({event["id"] for event in site.expected()}, WAIT)
        site.port = free_port()
        with site.serving():
            site.publish("a")
            events = site.expected()
            site.receiver.wait_for({event["id"] for event in events}, WAIT)
            first.send_signal(signal.SIGTERM)
            first.wait(WAIT)
            site.publish("a")
            events = site.expected()
            site.receiver.wait_for({event["id"] for event in events}, WAIT)
    check_order(events, site.receiver.arrived)
    assert len(site.receiver.arrived) < 2 * len(events), "each process delivered"


def threads_of(process: "subprocess.Popen[bytes]") -> int:
    return len(list(Path(f"/proc/{process.pid}/task").iterdir()))


def test_a_stream_goes_on_after_a_restart_and_holds_up_no_shutdown(site: Site) -> None:
    found: list[dict[str, Any]] = []

    def follow() -> None:
        with site.client() as client:
            for event in client.follow_events("0"):
                found.append(event)
                if len(found) == 6:
                    return

    with site.serving() as process:
        site.publish("a")
        reader = threading.Thread(target=follow, daemon=True)
        reader.start()
        site.publish("a")
        deadline = time.monotonic() + WAIT
        while len(found) < 4 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(found) == 4
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(WAIT)
        took = time.monotonic() - began
    logs = sorted(site.folder.glob("registry-*.log"))
    assert "timeout graceful shutdown exceeded" not in logs[0].read_text(), took
    with site.serving():
        site.publish("a")
        reader.join(WAIT)
        assert found == site.expected()


def test_streams_take_no_thread_and_give_their_place_back(site: Site) -> None:
    headers = {"Authorization": f"Bearer {site.operator.text}", "Accept": "text/event-stream"}
    with site.serving() as process, httpx.Client(base_url=site.url, headers=headers) as http:
        site.publish("a")
        ids, before = list[str](), 0
        for round_ in range(3):  # places of closed streams are free again
            open_: list[Any] = []
            for number in range(PER_KEY):
                stream = http.stream("GET", "/api/v1/events", timeout=WAIT)
                reply = stream.__enter__()
                assert reply.status_code == 200, (round_, number)
                assert reply.headers["content-type"].startswith("text/event-stream")
                lines = reply.iter_lines()  # closes the stream when it is dropped
                open_.append((stream, lines))
                ids = [line for line in (next(lines) for _ in range(8)) if line.startswith("id: ")]
            refused = http.get("/api/v1/events", timeout=WAIT)
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == Overloaded.code
            before = before or threads_of(process)
            assert threads_of(process) <= before + 2
            for stream, _ in open_:
                stream.__exit__(None, None, None)
            time.sleep(2)
        (last, *_) = reversed(ids)
        resumed = {**headers, "Last-Event-ID": last.removeprefix("id: ")}
        with http.stream("GET", "/api/v1/events", headers=resumed, timeout=WAIT) as reply:
            lines = reply.iter_lines()
            assert [next(lines) for _ in range(3)][2].startswith((": heartbeat", "id: "))
