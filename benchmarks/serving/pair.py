"""Two real servers of the same model and settings: `lorary serve` over S3, and bare vLLM.

Both run for the whole measurement and are loaded in turn, so an idle one costs the other nothing
but memory. Bare vLLM reads local directories that are loaded by its own route.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.servers import Served
from benchmarks.serving.library import Library
from benchmarks.serving.streams import Ask, run
from serving.launch import arguments, environment
from serving.settings import ServingSettings
from tests.support.s3 import s3_server
from tests.support.servers import BIN, free_port, running

SLOTS = 4
"""--max-loras"""
HOST = 8
"""--max-cpu-loras: no more names are known to the engine."""
DISK_BYTES = 800_000_000
"""Room for forty adapters on the replica's disk."""


@dataclass(frozen=True)
class Pair:
    """Both servers and what they serve."""

    library: Library
    gated: Served
    bare: Served

    def grow(self, size: int) -> None:
        """Publish until the library has `size` adapters and the gate has read of them."""
        self.await_commit(self.library.grow(size))

    def await_commit(self, sequence: int) -> None:
        """Wait until the gate has read the registry's log up to there."""
        deadline = time.monotonic() + 120
        while self.health()["registry"]["sequence"] < sequence:
            if time.monotonic() > deadline:
                raise SystemExit("the replica does not follow its registry")
            time.sleep(0.1)

    def health(self) -> dict[str, dict[str, int]]:
        """What the replica says of itself."""
        found: dict[str, dict[str, int]] = httpx.get(f"{self.gated.url}/health").json()
        return found

    def metrics(self) -> dict[str, float]:
        """The replica's metrics page: every series and its value."""
        page = httpx.get(f"{self.gated.url}/metrics", headers=self.gated.headers).text
        lines = (line for line in page.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def load_bare(self, name: str, path: Path) -> None:
        """Let bare vLLM load a local adapter."""
        body = {"lora_name": name, "lora_path": str(path)}
        reply = httpx.post(f"{self.bare.url}/v1/load_lora_adapter", json=body, timeout=120)
        if reply.status_code != 200 and "already" not in reply.text:
            raise SystemExit(f"bare vLLM refuses {name}: {reply.text[:300]}")

    def unload_bare(self, name: str) -> None:
        """Let bare vLLM forget it."""
        httpx.post(f"{self.bare.url}/v1/unload_lora_adapter", json={"lora_name": name})

    def warm_up(self) -> None:
        """Let both answer a few times, so that nothing is measured that happens only once."""
        self.grow(SLOTS)
        asks = [Ask(self.library.name(number), 8) for number in range(SLOTS)] * 2
        for number in range(SLOTS):
            self.load_bare(self.library.name(number), self.library.local(number))
        for served in (self.gated, self.bare):
            run(served, asks, at_once=SLOTS)


@contextlib.contextmanager
def pair(folder: Path) -> Iterator[Pair]:
    """Start everything; both servers at once, since importing vLLM takes most of a minute."""
    with contextlib.ExitStack() as stack:
        s3 = stack.enter_context(s3_server(folder))
        os.environ.update(s3.environment)
        library = Library(folder, s3)
        stack.callback(library.registry.close)
        starts = (_gated, _bare)
        began = time.perf_counter()
        with ThreadPoolExecutor(2) as pool:
            gated, bare = pool.map(lambda start: start(stack, folder, library), starts)
        made = Pair(library, gated, bare)
        made.warm_up()
        print(f"  both servers are up and warm after {time.perf_counter() - began:.0f} s")
        yield made


def _gated(stack: contextlib.ExitStack, folder: Path, library: Library) -> Served:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    variables = {
        "LORARY_STORE": library.url,
        "LORARY_ADAPTER_CACHE": str(folder / "cache"),
        "LORARY_CACHE_BYTES": str(DISK_BYTES),
        "LORARY_MAX_LORAS": str(SLOTS),
        "LORARY_MAX_CPU_LORAS": str(HOST),
    }
    process = stack.enter_context(
        running(
            [str(BIN / "lorary"), "serve", "--port", str(port)],
            folder / "gated.log",
            ready=f"{url}/health",
            environment=variables,
            seconds=400,
        )
    )
    return Served("Lorary", url, "", library.headers, process.pid)


def _bare(stack: contextlib.ExitStack, folder: Path, library: Library) -> Served:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = ServingSettings(store=library.url, port=port, max_loras=SLOTS, max_cpu_loras=HOST)
    options = [option for option in arguments(settings) if not option.startswith("--middleware")]
    process = stack.enter_context(
        running(
            [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", *options],
            folder / "bare.log",
            ready=f"{url}/health",
            environment=environment(settings)
            | {"VLLM_PLUGINS": "", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"},
            seconds=400,
        )
    )
    return Served("bare vLLM", url, "", {}, process.pid)


def resident(served: Served) -> tuple[int, int]:
    """Resident bytes of the API process, and of the engine's processes."""
    process = psutil.Process(served.pid)
    children = process.children(recursive=True)
    return process.memory_info().rss, sum(child.memory_info().rss for child in children)
