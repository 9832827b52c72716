"""Lorary's registry beside `mlflow server`, both on their embedded defaults, in one run.

    python -m benchmarks.registry                # or: make bench-registry

MLflow is installed into an environment of its own under the cache folder, the first time. Both
servers run on this machine at once, and each operation is timed on one and then the other, in
turns. Publishing sends the same three small files each time; looking is timed from the request's
first byte to the answer's last on a bare socket. Prints medians with the range, and the ratio of
the medians. Resolving an alias is also timed beside a bare ASGI application on the same HTTP server
that answers the same bytes to everybody: what the server itself takes.
"""

import argparse
import json
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlencode

import httpx

from benchmarks.counting import requests_per_operation
from benchmarks.peers import peer
from benchmarks.plot import bars
from registry.client import RegistryClient
from registry.model.aliases import MoveAlias
from registry.model.catalog import File
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.model.versions import PublishVersion
from registry.registry import Registry
from registry.store import LocalStore
from registry.store.blobs import Blobs, content_digest
from tests.support.adapters import TINY, write_adapter
from tests.support.catalogs import FACTS
from tests.support.servers import BIN, free_port, running

MLFLOW = "mlflow==3.17.2"
ADAPTER = "bench/coder"
PER_ADAPTER = 100
_LENGTH = re.compile(rb"(?i)content-length: (\d+)")


@dataclass
class Timing:
    """Milliseconds of one operation on Lorary and on what it is compared with."""

    name: str
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """How many times longer theirs takes, by medians."""
        return median(self.theirs) / median(self.ours)


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--versions", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--publish", type=int, default=1000, help="versions pushed one by one")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--plot", type=Path, help="draw the ratios to this file")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as text, ExitStack() as stack:
        folder = Path(text)
        ours, theirs = Ours(folder / "ours"), Theirs(folder / "theirs")
        timings = [cold_start(stack, ours, theirs)]
        adapters = [write_adapter(folder / f"a{n}", seed=n) for n in range(2)]
        timings.append(publish(ours, theirs, adapters, options.publish))
        for size in options.versions:
            fill(ours, theirs, size)
            timings += look(ours, theirs, size, options.repeats)
        bare = against_bare(stack, ours, folder, options.repeats)
    show(timings)
    print(f"{'':38} {'':>26} {'a bare server, ms':>28}")
    print(
        f"{bare.name:38} {spread(bare.ours):>26} {spread(bare.theirs):>28} {1 / bare.ratio:6.2f}x"
    )
    for name, count in requests_per_operation().items():
        print(f"  store requests, {name:32} {count}")
    if options.json:
        found = [{"name": t.name, "ours": t.ours, "theirs": t.theirs} for t in (*timings, bare)]
        options.json.write_text(json.dumps(found) + "\n")
    if options.plot:
        bars(options.plot, [(t.name, t.ours, t.theirs) for t in timings], ("Lorary", "MLflow"))


class Wire:
    """A socket and nothing else, the same for both: so that the servers are compared, not what
    parses their answers."""

    def __init__(self, port: int, prefix: str, headers: dict[str, str]) -> None:
        self._port = port
        self._prefix = prefix
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._socket = socket.socket()

    def reconnect(self) -> None:
        """Forget a connection that the server may have closed meanwhile."""
        self._socket.close()
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get(self, path: str, **query: str) -> bytes:
        """One request on the connection that is kept open; the answer's body."""
        url = f"{self._prefix}{path}{'?' if query else ''}{urlencode(query)}"
        request = f"GET {url} HTTP/1.1\r\nHost: 127.0.0.1\r\n{self._headers}\r\n"
        self._socket.sendall(request.encode())
        data = self._socket.recv(1 << 20)
        while b"\r\n\r\n" not in data:
            data += self._socket.recv(1 << 20)
        head, _, body = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"{url}: {data[:300]!r}")
        length = int(_LENGTH.search(head)[1])  # type: ignore[index] # both servers send it
        pieces, left = [body], length - len(body)
        while left > 0:
            pieces.append(self._socket.recv(1 << 20))
            left -= len(pieces[-1])
        return b"".join(pieces)


BARE = """
import sys, uvicorn
from registry.server import config

body = open(sys.argv[2], "rb").read()
head = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]

async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

uvicorn.Server(config(app, "127.0.0.1", int(sys.argv[1]), allowed=1000, trusted="")).run()
"""
"""A server that answers every request with the bytes of a file."""


def against_bare(stack: ExitStack, ours: "Ours", folder: Path, repeats: int) -> Timing:
    """Resolve an alias, and get the same bytes from a server that does nothing for them."""
    path, port = f"/resolve/{ADAPTER}@champion", free_port()
    answer = folder / "answer.json"
    answer.write_bytes(ours.wire.get(path))
    stack.enter_context(
        running(
            [sys.executable, "-c", BARE, str(port), str(answer)],
            folder / "bare.log",
            ready=f"http://127.0.0.1:{port}/",
            environment={},
        )
    )
    bare = Wire(port, "/api/v1", {"Authorization": f"Bearer {ours.key.text}"})
    for wire in (ours.wire, bare):
        wire.reconnect()
    timing = Timing("resolve an alias")
    for _ in range(max(1000, repeats)):
        timing.ours.append(timed(partial(ours.wire.get, path)))
        timing.theirs.append(timed(partial(bare.get, path)))
    return timing


class Ours:
    """Lorary on a directory."""

    def __init__(self, folder: Path) -> None:
        self.store = LocalStore(folder)
        self.key = Registry.create(self.store, name="bench", key_name="bench")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = RegistryClient(self.url, self.key.text)
        bearer = {"Authorization": f"Bearer {self.key.text}"}
        self.wire = Wire(self.port, "/api/v1", bearer)
        self.filled = 0

    def command(self) -> list[str]:
        """How the server is started."""
        return [str(BIN / "lorary"), "serve-registry", "--port", str(self.port)]

    def prepare(self) -> None:
        """What publishing needs."""
        self.client.execute(CreateDomain("bench", Policy(guarded=())))
        self.client.add_base(TINY)

    def fill(self, size: int) -> None:
        """Bring the versions up to `size`, `PER_ADAPTER` to an adapter, past admission."""
        registry = Registry(self.store)
        data = Blobs(self.store).put_bytes(b"filler")
        while self.filled < size:
            listed = (File("adapter_model.safetensors", 6 + self.filled, data),)
            name = f"filler-{self.filled // PER_ADAPTER}"
            digest = content_digest(listed)
            registry.execute(
                PublishVersion("bench", name, digest, "tiny", listed, FACTS), self.key.id
            )
            self.filled += 1
        registry.close()


class Theirs:
    """MLflow's server on SQLite and a directory."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=120)
        self.wire = Wire(self.port, "/api/2.0/mlflow/", {})
        self.filled = 0
        self.run, self.artifacts = "", ""
        self.bin = peer("mlflow", MLFLOW)

    def command(self) -> list[str]:
        """How the server is started: one worker, as Lorary has one process."""
        backend = f"sqlite:///{self.folder}/mlflow.db"
        return [
            str(self.bin / "mlflow"), "server", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", backend,
            "--artifacts-destination", str(self.folder / "artifacts"),
        ]  # fmt: skip

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """One REST call."""
        reply = self.http.request(method, f"/api/2.0/mlflow/{path}", **arguments)
        reply.raise_for_status()
        return reply.json() if reply.content else None

    def prepare(self) -> None:
        """A model to publish versions of, and the run that MLflow wants as their source."""
        self.call("POST", "registered-models/create", json={"name": "coder"})
        run = self.call("POST", "runs/create", json={"experiment_id": "0"})["run"]["info"]
        self.run, self.artifacts = run["run_id"], run["artifact_uri"]

    def publish(self, directory: Path, number: int) -> None:
        """Upload the files through the server, then create the version."""
        for path in directory.iterdir():
            place = self.artifacts.removeprefix("mlflow-artifacts:/")
            put = f"/api/2.0/mlflow-artifacts/artifacts/{place}/{number}/{path.name}"
            self.http.put(put, content=path.read_bytes()).raise_for_status()
        self.version("coder", str(number))

    def version(self, name: str, source: str) -> None:
        """Create a version of what lies at `source` among the run's files."""
        body = {"name": name, "run_id": self.run, "source": f"{self.artifacts}/{source}"}
        self.call("POST", "model-versions/create", json=body)

    def fill(self, size: int) -> None:
        """Bring the versions up to `size`, without files."""
        while self.filled < size:
            name = f"filler-{self.filled // PER_ADAPTER}"
            if self.filled % PER_ADAPTER == 0:
                self.call("POST", "registered-models/create", json={"name": name})
            self.version(name, "filler")
            self.filled += 1


def cold_start(stack: ExitStack, ours: Ours, theirs: Theirs) -> Timing:
    """From the command to the first answer; both stay up."""
    timing = Timing("cold start")
    environment = {"LORARY_STORE": ours.store.url, "MLFLOW_DISABLE_TELEMETRY": "true"}
    for side, times in ((ours, timing.ours), (theirs, timing.theirs)):
        began = time.perf_counter()
        log = Path(side.url.rpartition(":")[2] + ".log")
        log = ours.store.root.parent / log
        stack.enter_context(
            running(
                side.command(),
                log,
                ready=f"{side.url}/health",
                environment=environment,
                seconds=180,
            )
        )
        times.append(1000 * (time.perf_counter() - began))
        side.prepare()
    return timing


def publish(ours: Ours, theirs: Theirs, adapters: list[Path], count: int) -> Timing:
    """Push small adapters one after the other; two in turn, so that each is a new version."""
    timing = Timing("publish a version, with files")
    for number in range(count):
        directory = adapters[number % 2]
        timing.ours.append(timed(partial(ours.client.push, directory, ADAPTER)))
        timing.theirs.append(timed(partial(theirs.publish, directory, number)))
    ours.client.execute(MoveAlias("bench", "coder", "champion", 1))
    body = {"name": "coder", "alias": "champion", "version": "1"}
    theirs.call("POST", "registered-models/alias", json=body)
    return timing


def fill(ours: Ours, theirs: Theirs, size: int) -> None:
    """Bring both up to `size` versions."""
    print(f"filling both up to {size} versions ...")
    ours.fill(size)
    theirs.fill(size)


def look(ours: Ours, theirs: Theirs, size: int, repeats: int) -> list[Timing]:
    """Resolve an alias, list an adapter's versions, and search, at that size."""
    operations: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "resolve an alias": (
            partial(ours.wire.get, f"/resolve/{ADAPTER}@champion"),
            partial(theirs.wire.get, "registered-models/alias", name="coder", alias="champion"),
        ),
        "list 1,000 versions of one": (
            partial(ours.wire.get, f"/adapters/{ADAPTER}"),
            partial(
                theirs.wire.get, "model-versions/search", filter="name='coder'", max_results="1000"
            ),
        ),
        "search all by name": (
            partial(ours.wire.get, "/adapters", search="filler-1"),
            partial(
                theirs.wire.get,
                "registered-models/search",
                filter="name LIKE 'filler-1%'",
                max_results="1000",
            ),
        ),
    }
    for side in (ours, theirs):
        side.wire.reconnect()
    timings = []
    for name, (first, second) in operations.items():
        timing = Timing(f"{name}, at {size:,}")
        for _ in range(repeats):
            timing.ours.append(timed(first))
            timing.theirs.append(timed(second))
        timings.append(timing)
    return timings


def timed(operation: Callable[[], Any]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    operation()
    return 1000 * (time.perf_counter() - began)


def show(timings: list[Timing]) -> None:
    """Print the table."""
    print(f"\n{'':38} {'Lorary, ms':>26} {'MLflow, ms':>28} {'ratio':>7}")
    for timing in timings:
        print(
            f"{timing.name:38} {spread(timing.ours):>26} {spread(timing.theirs):>28} "
            f"{timing.ratio:7.1f}"
        )


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{median(values):.2f} [{min(values):.2f} .. {max(values):.2f}]"


if __name__ == "__main__":
    main()
