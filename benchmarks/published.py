"""What thousands of published adapters cost one replica that serves only a few of them.

    python -m benchmarks.published                 # 100, 1,000 and 10,000 adapters, two minutes

A registry in a local directory; one replica in a process of its own: the real gate around an engine
that only reads files. Measured for each number: from the process's start until it is ready, looking
up a version, showing one model and all, resident memory, and how soon a new version can be asked
for. Printed with the power of the number of adapters by which each grows between the last two:
1 is linear, 2 would be quadratic. Exit status 1: something grows by a power above 1.3.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import httpx
import psutil

from adapters.children import end, spawn
from registry.model.access import Secret
from registry.model.aliases import MoveAlias
from registry.model.bases import RegisterBase
from registry.model.catalog import File
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.model.versions import PublishVersion
from registry.registry import Registry
from registry.store import LocalStore
from registry.store.blobs import Blobs, content_digest
from tests.support.catalogs import FACTS
from tests.support.servers import free_port

POWER = 1.3
TIMES = 30


@dataclass(frozen=True, slots=True)
class Cost:
    """What a replica costs with so many adapters published. Seconds, and bytes."""

    adapters: int
    start: float
    refusal: float
    """A request for a version that does not exist: found, and the nearest names with it."""
    model: float
    """`/v1/models/NAME`, as clients ask before they use a name."""
    models_list: float
    list_bytes: int
    resident_bytes: int
    new_version: float
    """From a version's commit until it answers for the first time."""


def main() -> None:
    """Measure each number, print the costs and how they grow."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.published",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--adapters", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    costs = [measure(count) for count in sorted(options.adapters)]
    for cost in costs:
        print(
            f"{cost.adapters:>7,} adapters: ready in {cost.start:.2f} s, "
            f"{1000 * cost.refusal:.1f} ms to look up a version, "
            f"{1000 * cost.model:.1f} ms to show one model, "
            f"{1000 * cost.models_list:.1f} ms and {cost.list_bytes / 1e6:.2f} MB to list all, "
            f"{cost.resident_bytes / 1e6:.0f} MB resident, a new version after "
            f"{cost.new_version:.2f} s"
        )
    powers = growth(costs[-2], costs[-1]) if len(costs) > 1 else {}
    print("grows by the power: " + ", ".join(f"{n} {p:.2f}" for n, p in powers.items()))
    if options.json:
        figures = {"costs": [asdict(cost) for cost in costs], "powers": powers}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(1 if any(power > POWER for power in powers.values()) else 0)


def growth(few: Cost, many: Cost) -> dict[str, float]:
    """The power of the number of adapters by which each cost grows."""
    ratio = math.log(many.adapters / few.adapters)
    before, after = asdict(few), asdict(many)
    names = [name for name in before if name != "adapters"]
    return {name: math.log(after[name] / before[name]) / ratio for name in names}


def measure(count: int) -> Cost:
    """One replica of a registry with `count` adapters."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        store = LocalStore(folder / "store")
        key = Registry.create(store, name="bench", key_name="bench")
        registry = Registry(store)
        try:
            registry.execute(RegisterBase("tiny", "0" * 64, "1" * 64), key.id)
            registry.execute(CreateDomain("bench", Policy(guarded=())), key.id)
            with ThreadPoolExecutor(64) as pool:  # together, so that many go into one commit
                publishing = [pool.submit(_publish, registry, key, f"a{n}") for n in range(count)]
                for future in publishing:
                    future.result()
            began = time.perf_counter()
            process, url = start(folder)
            try:
                headers = {"Authorization": f"Bearer {key.text}"}
                with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
                    wait(lambda: client.get("/health").status_code == 200)
                    ready = time.perf_counter() - began
                    return _ask(client, registry, key, count, ready, process)
            finally:
                end(process)
        finally:
            registry.close()


def _ask(
    client: httpx.Client,
    registry: Registry,
    key: Secret,
    count: int,
    ready: float,
    process: "subprocess.Popen[bytes]",
) -> Cost:
    def answer(name: str) -> bool:
        reply = client.post("/v1/completions", json={"model": name, "prompt": "?"})
        return reply.status_code == 200

    wait(lambda: answer("bench/a0"))
    refusal = _median(lambda: answer("bench/a0@2"))
    model = _median(lambda: client.get("/v1/models/bench/a0"))
    models_list = _median(lambda: client.get("/v1/models"))
    size = len(client.get("/v1/models").content)
    resident = psutil.Process(process.pid).memory_info().rss
    _publish(registry, key, "new")
    began = time.perf_counter()
    wait(lambda: answer("bench/new"))
    new = time.perf_counter() - began
    return Cost(count, ready, refusal, model, models_list, size, resident, new)


def _publish(registry: Registry, key: Secret, adapter: str) -> None:
    """A version with bytes of its own, and production moved to it."""
    weights = f"weights of {adapter}".encode()
    stored = Blobs(registry.store).put_bytes(weights)
    files = (File("adapter_model.safetensors", len(weights), stored),)
    digest = content_digest(files)
    registry.execute(PublishVersion("bench", adapter, digest, "tiny", files, FACTS), key.id)
    registry.execute(MoveAlias("bench", adapter, "production", 1), key.id)


def start(folder: Path) -> tuple["subprocess.Popen[bytes]", str]:
    """The replica's process, and where it will listen."""
    port = free_port()
    environment = {
        "LORARY_STORE": str(folder / "store"),
        "LORARY_BASE_NAME": "tiny",
        "LORARY_ADAPTER_CACHE": str(folder / "cache"),
    }
    command = [sys.executable, "-m", "uvicorn", "tests.support.file_engine:app"]
    command += ["--port", str(port), "--log-level", "warning"]
    with (folder / "replica.log").open("wb") as log:
        process = spawn(command, log, environment=environment)
    return process, f"http://127.0.0.1:{port}"


def wait(condition: Callable[[], bool]) -> None:
    """Ask every 20 ms until it holds; raises `TimeoutError` after two minutes."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except httpx.TransportError:  # it does not listen yet
            pass
        time.sleep(0.02)
    raise TimeoutError("the replica never answered as it should")


def _median(ask: Callable[[], object]) -> float:
    seconds = []
    for _ in range(TIMES):
        began = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - began)
    return median(seconds)


if __name__ == "__main__":
    main()
