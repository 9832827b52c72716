"""The chart's Envoy before replicas that only say who they are: where requests go, and why."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.request.routes import ROUTES
from tests.support.front import BASE, Front, front, write
from tests.support.servers import free_port, running

CHAT = "/v1/chat/completions"
LIMIT = 1 << 20
ADAPTERS = [f"medical/a{number}" for number in range(40)]


class Fleet:
    """An Envoy and the replicas behind it, each a process."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.client = stack.enter_context(httpx.Client(timeout=30))

    def start(self, port: int) -> None:
        """A replica on `port`."""
        command = [sys.executable, "-m", "tests.support.stub_replica", str(port)]
        url = f"http://127.0.0.1:{port}/health"
        log = self.folder / f"stub-{port}.log"
        self.processes[port] = self._stack.enter_context(running(command, log, ready=url))

    def put(self, pools: dict[str, list[int]], **values: Any) -> None:
        """The Envoy before them."""
        self.front: Front = self._stack.enter_context(front(pools, self.folder, **values))

    def post(self, model: Any, orders: str = "", **headers: str) -> httpx.Response:
        """One request."""
        body = {"messages": [], "user": orders, "model": model}
        return self.client.post(f"{self.front.url}{CHAT}", json=body, headers=headers)

    def ask(self, model: Any, orders: str = "") -> int:
        """Which replica answered."""
        reply = self.post(model, orders)
        assert reply.status_code == 200, reply.text
        return int(reply.json()["replica"])

    def owners(self) -> dict[str, int]:
        """Where each adapter is served."""
        return {adapter: self.ask(adapter) for adapter in ADAPTERS}

    def settle(self, healthy: int, pool: str = "pool") -> None:
        """Wait until Envoy sends to so many replicas."""
        deadline = time.monotonic() + 20
        while self.front.healthy(pool) != healthy:
            assert time.monotonic() < deadline, self.front.healthy(pool)
            time.sleep(0.1)
        time.sleep(1.2)  # Envoy gathers changes for a second before its workers learn of them


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three replicas of one pool and one of another."""
    with contextlib.ExitStack() as stack:
        made = Fleet(tmp_path_factory.mktemp("front"), stack)
        ports = [free_port() for _ in range(4)]
        for port in ports:
            made.start(port)
        pools = {"pool": ports[:3], "legal": ports[3:]}
        made.put(pools, domains={"legal": ["legal", "tax"]}, maxBodyBytes=LIMIT)
        made.settle(3)
        yield made


def test_an_adapters_requests_meet_on_one_replica_by_whichever_name(fleet: Fleet) -> None:
    owners = fleet.owners()
    assert len(set(owners.values())) == 3
    for adapter, owner in owners.items():
        names = [adapter, f"{adapter}@7", f"{adapter}@production"]
        assert {fleet.ask(name) for name in names} == {owner}


def test_a_domain_goes_to_the_pool_that_serves_it(fleet: Fleet) -> None:
    legal = fleet.ask("legal/clauses@3")
    assert {fleet.ask(name) for name in ("legal", "tax/vat", f"{BASE}-legal")} == {legal}
    others = {fleet.ask(name) for name in ("legality/x", f"{BASE}Xlegal", BASE, *ADAPTERS)}
    assert legal not in others


def test_a_header_that_a_caller_made_up_does_not_choose_the_replica(fleet: Fleet) -> None:
    for adapter in ADAPTERS[:10]:
        plain = fleet.ask(adapter)
        forged = fleet.post(adapter, **{"x-lorary-model": "legal/clauses"})
        assert forged.json()["replica"] == plain


@pytest.mark.parametrize("model", ["a\r\nx-evil: 1", "a\nb", "\x00", 7, None, {"a": 1}, "é" * 300])
def test_what_is_no_model_name_adds_no_header_and_breaks_nothing(fleet: Fleet, model: Any) -> None:
    reply = fleet.post(model)
    assert reply.status_code in (200, 400, 403)
    if reply.status_code == 200:
        assert "x-evil" not in reply.json()["headers"]
    assert fleet.post("medical/a1").status_code == 200


@pytest.mark.parametrize("body", [b"{", b"", b"[1, 2]", b'"model"'])
def test_what_is_no_json_is_left_to_the_gate_to_refuse(fleet: Fleet, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    reply = fleet.client.post(f"{fleet.front.url}{CHAT}", content=body, headers=headers)
    assert reply.status_code == 200
    assert reply.json()["bytes"] == len(body)


def test_the_gates_headers_pass_and_so_does_the_callers_key(fleet: Fleet) -> None:
    reply = fleet.post("a/b", Authorization="Bearer lry_x_y", **{"x-lorary-sticky": "ward-7"})
    assert reply.headers["x-lorary-adapter"] == "a/b@1"
    assert reply.headers["x-lorary-digest"] == "00"
    assert reply.json()["headers"]["authorization"] == "Bearer lry_x_y"
    assert reply.json()["headers"]["x-lorary-sticky"] == "ward-7"


def test_the_access_log_says_who_asked_for_what_and_holds_no_key_or_prompt(fleet: Fleet) -> None:
    fleet.post("medical/logged@3", "wait=0", Authorization="Bearer lry_x_private")
    deadline = time.monotonic() + 5
    while "medical/logged@3" not in (text := (fleet.folder / "envoy.log").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    [line] = [line for line in text.splitlines() if "medical/logged@3" in line]
    said = json.loads(line)
    assert (said["address"], said["path"], said["status"]) == ("127.0.0.1", CHAT, 200)
    assert "private" not in line
    assert "wait=0" not in line


def test_a_stream_arrives_piece_by_piece(fleet: Fleet) -> None:
    body = {"model": "a/b", "user": "stream=5", "messages": []}
    arrived = []
    with fleet.client.stream("POST", f"{fleet.front.url}{CHAT}", json=body) as reply:
        assert reply.headers["x-lorary-adapter"] == "a/b@1"
        for line in reply.iter_lines():
            if line:
                arrived.append((time.monotonic(), line))
    assert [line.split()[1] for _, line in arrived] == ["0", "1", "2", "3", "4", "[DONE]"]
    # Each is sent 0.2 s after the one before; buffered, they would come at once.
    assert arrived[-1][0] - arrived[0][0] > 0.7


def test_bodies_up_to_the_limit_pass_whole_and_larger_ones_are_refused_in_the_envelope(
    fleet: Fleet,
) -> None:
    def send(size: int) -> httpx.Response:
        text = json.dumps({"messages": "", "user": "", "model": "medical/a1"})
        body = text.replace('"messages": ""', f'"messages": "{"x" * (size - len(text))}"')
        headers = {"content-type": "application/json"}
        url = f"{fleet.front.url}{CHAT}"
        return fleet.client.post(url, content=body.encode(), headers=headers)

    fits = send(LIMIT - 100)
    assert fits.json()["bytes"] == LIMIT - 100
    assert fits.json()["replica"] == fleet.ask("medical/a1")
    refused = send(LIMIT * 3)
    assert refused.status_code == 413
    assert refused.json()["error"]["code"] == "too_large"
    assert str(LIMIT) in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/metrics"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/unload_lora_adapter"),
        ("POST", "/collective_rpc"),
        ("GET", CHAT),
        ("POST", "/v1/models"),
        ("POST", "/v1/chat/completions/../../load_lora_adapter"),
        ("POST", "//v1/load_lora_adapter"),
    ],
)
def test_routes_that_are_not_for_callers_do_not_exist(fleet: Fleet, method: str, path: str) -> None:
    host = fleet.front.url.removeprefix("http://")
    target = f"{fleet.front.url}{path}"
    request = httpx.Request(method, target, headers={"host": host}, content=b"")
    request.extensions["target"] = path.encode()
    reply = fleet.client.send(request)
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "route_not_found"


def test_every_route_of_the_models_api_passes(fleet: Fleet) -> None:
    for path in ROUTES:
        reply = fleet.client.post(f"{fleet.front.url}{path}", json={"model": "medical/a1"})
        assert reply.json()["path"] == path
    for path in ("/v1/files", "/v1/files/file-1/content", "/v1/batches/batch_1/cancel"):
        for method in ("GET", "POST", "DELETE"):
            reply = fleet.client.request(method, f"{fleet.front.url}{path}")
            assert reply.json()["path"] == path
    for path in ("/v1/models", "/v1/models/medical/a1"):
        assert fleet.client.get(f"{fleet.front.url}{path}").json()["path"] == path


def test_escaped_slashes_are_refused(fleet: Fleet) -> None:
    assert httpx.get(f"{fleet.front.url}/v1%2Fmodels").status_code == 400


def test_of_the_admin_interface_only_readiness_and_statistics_show(fleet: Fleet) -> None:
    assert httpx.get(f"{fleet.front.stats}/ready").status_code == 200
    for path in ("/config_dump", "/quitquitquit", "/stats", "/"):
        assert httpx.get(f"{fleet.front.stats}{path}").status_code == 404
    assert httpx.post(f"{fleet.front.stats}/ready").status_code == 404


def test_a_hot_adapter_spreads_and_no_replica_takes_much_more_than_its_share(
    fleet: Fleet,
) -> None:
    with ThreadPoolExecutor(24) as pool:
        asked = list(pool.map(lambda _: fleet.ask("medical/hot", "wait=0.15"), range(240)))
    # The first ones come before any connection is there to count; then 150 % of an even share,
    # and one of 24 more than that, as Envoy counts.
    counts = Counter(asked[120:])
    assert len(counts) >= 2
    assert max(counts.values()) <= 120 * (1.5 / 3 + 1 / 24 + 0.1), counts


def test_a_503_is_tried_elsewhere_and_a_429_is_not(fleet: Fleet) -> None:
    owner = fleet.ask("medical/a3")
    assert fleet.ask("medical/a3", f"status=503 only={owner}") != owner
    limited = fleet.post("medical/a3", "status=429")
    assert limited.status_code == 429
    assert limited.json()["replica"] == owner
    everywhere = fleet.post("medical/a3", "status=503")
    assert everywhere.status_code == 503


def test_a_replica_that_drains_gets_no_new_requests_and_ends_those_it_has(
    tmp_path: Path,
) -> None:
    with contextlib.ExitStack() as stack:
        fleet = Fleet(tmp_path, stack)
        ports = [free_port() for _ in range(3)]
        for port in ports:
            fleet.start(port)
        fleet.put({"pool": ports})
        fleet.settle(3)
        owner = fleet.ask("a/b")
        before = fleet.owners()
        with ThreadPoolExecutor(1) as pool:
            running_ = pool.submit(fleet.ask, "a/b", "wait=6")
            time.sleep(0.5)
            httpx.post(f"http://127.0.0.1:{owner}/drain")
            fleet.settle(2)
            after = fleet.owners()
            assert owner not in after.values()
            assert running_.result() == owner
        moved = [a for a in ADAPTERS if before[a] != owner and before[a] != after[a]]
        assert len(moved) <= 2, "adapters of the other replicas stay where they are loaded"


def test_killed_under_load_a_replica_costs_no_request_that_had_no_answer_yet(
    tmp_path: Path,
) -> None:
    with contextlib.ExitStack() as stack:
        fleet = Fleet(tmp_path, stack)
        ports = [free_port() for _ in range(3)]
        for port in ports:
            fleet.start(port)
        fleet.put({"pool": ports})
        fleet.settle(3)
        victim, ending, statuses = ports[0], threading.Event(), Counter[int]()

        def load(number: int) -> None:
            while not ending.is_set():
                adapter = ADAPTERS[(number * 7) % len(ADAPTERS)]
                statuses[fleet.post(adapter, "wait=0.05").status_code] += 1
                number += 1

        with ThreadPoolExecutor(8) as pool:
            for number in range(8):
                pool.submit(load, number)
            time.sleep(1)
            fleet.processes[victim].send_signal(signal.SIGKILL)
            time.sleep(3)
            fleet.settle(2)
            assert victim not in fleet.owners().values()
            fleet.processes[victim].wait()
            fleet.start(victim)
            fleet.settle(3)
            assert victim in fleet.owners().values()
            ending.set()
        assert set(statuses) == {200}, statuses
        assert fleet.front.counter("envoy_cluster_upstream_rq_retry", "pool") > 0


def test_with_no_replica_left_callers_get_the_error_envelope(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        fleet = Fleet(tmp_path, stack)
        fleet.put({"pool": [free_port()]})
        refused = fleet.post("a/b")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "no_replica"
        assert refused.headers["retry-after"] == "1"


def test_bodies_that_nobody_finishes_neither_fill_the_memory_nor_end_what_runs(
    fleet: Fleet, tmp_path: Path
) -> None:
    limit, size = 192 << 20, 4 << 20
    with contextlib.ExitStack() as stack:
        port = next(iter(fleet.processes))
        fleet = Fleet(tmp_path, stack)
        quantities = {"cpu": 1, "memory": "192Mi"}
        fleet.put({"pool": [port]}, resources={"requests": quantities, "limits": quantities})
        fleet.settle(1)
        host = fleet.front.url.removeprefix("http://")
        head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {size}\r\n\r\n"
        body = head.encode() + b'{"model": "medical/a1", "messages": "' + b"x" * (size - 100)
        most = 0
        with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as hostile:
            runs = pool.submit(fleet.ask, "medical/a1", "wait=2")
            time.sleep(0.2)
            for _ in range(2 * limit // size):
                address = ("127.0.0.1", int(host.rpartition(":")[2]))
                unfinished = hostile.enter_context(socket.create_connection(address, timeout=1))
                with contextlib.suppress(OSError):  # it is one of those that are turned away
                    unfinished.sendall(body)
                most = max(most, fleet.front.resident())
            assert httpx.get(f"{fleet.front.stats}/ready").status_code == 200
            assert runs.result() == port
        assert most < limit
        deadline = time.monotonic() + 10
        while True:  # until the memory is free again
            assert time.monotonic() < deadline
            with contextlib.suppress(httpx.TransportError):
                if fleet.post("medical/a1").status_code == 200:
                    break
            time.sleep(0.1)


def test_a_front_that_ends_first_ends_what_it_has(fleet: Fleet, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        port = next(iter(fleet.processes))
        ending = Fleet(tmp_path, stack)
        ending.put({"pool": [port]})
        ending.settle(1)
        with ThreadPoolExecutor(1) as pool:
            runs = pool.submit(ending.ask, "medical/a1", "wait=3")
            time.sleep(0.3)
            command = ["bash", str(tmp_path / "drain.sh"), "30", "0"]
            draining = stack.enter_context(subprocess.Popen(command))
            time.sleep(1)
            assert draining.poll() is None, "a request runs"
            assert httpx.get(f"{ending.front.stats}/ready").status_code == 503
            late = ending.post("medical/a2")
            assert (late.status_code, late.headers["connection"]) == (200, "close")
            assert draining.wait(20) == 0
            assert runs.done()
            assert runs.result() == port


def test_another_pool_is_taken_in_by_the_front_that_runs(fleet: Fleet, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        one, two, *_ = fleet.processes
        edited = Fleet(tmp_path, stack)
        edited.put({"pool": [one]})
        edited.settle(1)
        assert edited.ask("legal/clauses") == one
        pools = edited.front.chart["pools"]
        endpoints = [{"address": "localhost", "port": two}]
        legal = {**pools["pool"], "base": "b", "domains": ["legal"], "endpoints": endpoints}
        values = {**edited.front.chart, "pools": {**pools, "legal": legal}}
        write(values, tmp_path, edited.front.ports)
        deadline = time.monotonic() + 15
        while edited.post("legal/clauses").json().get("replica") != two:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert edited.ask("medical/a1") == one
        assert edited.front.process.poll() is None
