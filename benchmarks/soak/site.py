"""What is soaked: an S3 server, a registry's service, and replicas that can be restarted."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import httpx
import psutil

from adapters.children import spawn
from adapters.home import SMALL_MODEL, default_model
from benchmarks.soak.truth import Life, Span
from registry.client import RegistryClient
from registry.registry import Registry
from registry.store import open_store
from tests.support.s3 import BUCKET, S3Server, create_bucket, s3_command
from tests.support.servers import BIN, free_port, registry_server, running

START_SECONDS = 600.0
SLOTS, MEMORY = 3, 5
"""Adapters in one batch and in the engine's memory: fewer than are asked for."""
RECONCILE_SECONDS = 1.0
"""Between two comparisons of what a replica believes its engine holds with the engine's list."""
BLOCKS = 64
"""Of the engine's cache of keys and values: few, so that it has touched all of its memory soon and
what grows later is something else."""
REQUESTS, TOKENS_A_MINUTE = 120, 1500
"""Limits of each key a minute on a replica."""
SERIES = 24
"""Versions with metrics of their own: fewer than are asked for."""


@dataclass
class Replica:
    """One serving process: vLLM, or an engine that only reads files, behind the same gate."""

    kind: Literal["vllm", "light"]
    name: str
    folder: Path
    environment: dict[str, str]
    port: int = field(default_factory=free_port)
    life: Life = field(default_factory=Life)
    process: "subprocess.Popen[bytes] | None" = None
    starts: int = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Begin to start it; see `ready`."""
        command = [str(BIN / "lorary"), "serve", "--port", str(self.port)]
        command += ["--", f"--num-gpu-blocks-override={BLOCKS}"]
        if self.kind == "light":
            command = [sys.executable, "-m", "uvicorn", "tests.support.file_engine:app"]
            command += ["--port", str(self.port), "--log-level", "warning"]
        self.starts += 1
        with (self.folder / f"{self.name}-{self.starts}.log").open("wb") as log:
            self.process = spawn(command, log, environment=self.environment)

    async def ready(self) -> None:
        """Wait until it says so."""
        deadline = time.monotonic() + START_SECONDS
        async with httpx.AsyncClient(timeout=5) as client:
            while time.monotonic() < deadline and self.running:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(f"{self.url}/health")).status_code == 200:
                        return
                await asyncio.sleep(0.2)
        log = self.folder / f"{self.name}-{self.starts}.log"
        tail = log.read_text(errors="replace")[-3000:]
        raise RuntimeError(f"{self.name} did not become ready; its log ends:\n{tail}")

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None

    async def terminate(self, seconds: float = 60) -> float:
        """SIGTERM to the server alone, as Kubernetes sends it; how long it took to end."""
        began = time.monotonic()
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self.process.wait, seconds)
        took = time.monotonic() - began
        self.kill()
        return took

    def kill(self) -> None:
        """SIGKILL to all of its processes, as the end of a container is."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    async def restart(self, how: Literal["SIGTERM", "SIGKILL"]) -> float:
        """End it and start it anew; how long its end took."""
        spans = self.life.told_to_end if how == "SIGTERM" else self.life.killed
        began = time.monotonic()
        spans.append(Span(began))
        took = 0.0
        if how == "SIGTERM":
            took = await self.terminate()
        else:
            self.kill()
        self.start()
        await self.ready()
        spans[-1] = Span(began, time.monotonic() + 0.5)
        return took

    @property
    def cache(self) -> Path:
        """Its adapters' folder."""
        return self.folder / f"cache-{self.name}"

    def on_disk(self) -> int:
        """Bytes of whole adapters in its cache, read from the disk itself."""
        total = 0
        for adapter in self.cache.glob("[0-9a-f]*"):
            with contextlib.suppress(FileNotFoundError):  # evicted while we look
                total += sum(path.stat().st_size for path in adapter.iterdir())
        return total

    def processes(self) -> "tuple[psutil.Process, psutil.Process | None]":
        """The server, and its largest child: vLLM's engine. Raises `psutil.NoSuchProcess`."""
        if self.process is None:
            raise psutil.NoSuchProcess(0)
        server = psutil.Process(self.process.pid)
        children = server.children(recursive=True)
        return server, max(children, key=lambda p: p.memory_info().rss, default=None)


class Site:
    """All of it. Close it when done."""

    def __init__(
        self, folder: Path, *, vllm: int, light: int, cache_bytes: int, base: str = SMALL_MODEL
    ) -> None:
        self.folder = folder
        self.cache_bytes = cache_bytes
        self.base = base
        self._command, self.endpoint = s3_command(folder)
        self._s3 = contextlib.ExitStack()
        self._rest = contextlib.ExitStack()
        variables = S3Server(self.endpoint).environment
        self._before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        self.start_s3()
        create_bucket(self.endpoint)
        self.store_url = f"s3://{BUCKET}/soak"
        store = open_store(self.store_url, s3_endpoint=self.endpoint)
        self.operator = Registry.create(store, name="soak", key_name="operator").text
        url = self._rest.enter_context(registry_server(self.store_url, folder))
        self.registry = self._rest.enter_context(RegistryClient(url, self.operator))
        self.app = self.new_key("app")
        self.replicas = [self._replica("vllm", number) for number in range(1, vllm + 1)]
        self.replicas += [self._replica("light", number) for number in range(1, light + 1)]

    def new_key(self, name: str) -> str:
        """A caller's key."""
        return str(self.registry.issue_key(name, ["infer:*"])["key"])

    def _replica(self, kind: Literal["vllm", "light"], number: int) -> Replica:
        name = f"{kind}-{number}"
        environment = {
            "LORARY_STORE": self.store_url,
            "LORARY_MODEL": str(default_model()),
            "LORARY_BASE_NAME": self.base,
            "LORARY_ADAPTER_CACHE": str(self.folder / f"cache-{name}"),
            "LORARY_CACHE_BYTES": str(self.cache_bytes),
            "LORARY_MAX_LORAS": str(SLOTS),
            "LORARY_MAX_CPU_LORAS": str(MEMORY),
            "LORARY_MAX_MODEL_LEN": "512",
            "LORARY_METRIC_VERSIONS": str(SERIES),
            "LORARY_KEY_REQUESTS_PER_MINUTE": str(REQUESTS),
            "LORARY_KEY_TOKENS_PER_MINUTE": str(TOKENS_A_MINUTE),
            "LORARY_RECONCILE_SECONDS": str(RECONCILE_SECONDS),
        }
        return Replica(kind, name, self.folder, environment)

    def start_s3(self) -> None:
        """Start the object store over what it held."""
        log = self.folder / "weed.log"
        self._store = self._s3.enter_context(running(self._command, log, ready=self.endpoint))

    def stop_s3(self) -> None:
        """Kill the object store."""
        self._store.kill()
        self._s3.close()

    def close(self) -> None:
        """End every process."""
        for replica in self.replicas:
            replica.kill()
        self._rest.close()
        self._s3.close()
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
