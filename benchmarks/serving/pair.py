"""Real servers of one model and the same settings: `lorary serve`, and bare vLLM.

All run for the whole measurement and are loaded in turn, so an idle one costs the others nothing
but memory. The registry is on a real S3 server where one is installed, else in a directory. Bare
vLLM finds local directories by its own resolver, by the same names.
"""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.servers import Served
from benchmarks.serving.library import Library
from benchmarks.serving.setting import Setting
from benchmarks.serving.streams import Ask, Load, Run
from serving.hardware.presets import PRESETS
from serving.launch import arguments, environment
from serving.settings import ServingSettings
from tests.support.s3 import BUCKET, s3_server
from tests.support.servers import BIN, free_port, running


@dataclass(frozen=True)
class Pair:
    """The servers, what they serve, and who asks them."""

    setting: Setting
    library: Library
    gated: Served
    bare: Served
    asking: Load
    variants: Sequence[Served] = ()
    """Further `lorary serve`s, each with other settings."""

    def run(self, served: Served, asks: Sequence[Ask], *, at_once: int, **how: Any) -> Run:
        """`Load.run`."""
        return self.asking.run(served, asks, at_once=at_once, **how)

    def ask(self, model: str, tokens: int | None = None) -> Ask:
        """A request of the setting's size."""
        return Ask(model, tokens or self.setting.tokens, self.setting.words)

    def grow(self, size: int, *kind: Any) -> None:
        """Publish until the library has `size` adapters and every gate has read of them."""
        self.await_commit(self.library.grow(size, *kind))

    def await_commit(self, sequence: int) -> None:
        """Wait until the gates have read the registry's log up to there."""
        deadline = time.monotonic() + 120
        for served in (self.gated, *self.variants):
            while health(served)["registry"]["sequence"] < sequence:
                if time.monotonic() > deadline:
                    raise SystemExit(f"{served.name} does not follow its registry")
                time.sleep(0.1)

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

    def warm_up(self) -> None:
        """Let all answer a few times, so that nothing is measured that happens only once."""
        few = min(4, self.setting.slots)
        self.grow(few)
        for number in range(few):
            self.library.local(number)
        asks = [self.ask(self.library.name(number), 8) for number in range(few)] * 2
        for served in (self.gated, self.bare, *self.variants):
            self.run(served, asks, at_once=few)


def health(served: Served) -> dict[str, dict[str, int]]:
    """What a replica reports about itself."""
    found: dict[str, dict[str, int]] = httpx.get(f"{served.url}/health").json()
    return found


@contextlib.contextmanager
def pair(
    folder: Path, setting: Setting, variants: Mapping[str, Mapping[str, str]]
) -> Iterator[Pair]:
    """Start everything at once, since importing vLLM takes most of a minute on a small machine.

    variants: environment variables of further `lorary serve`s by title.
    """
    with contextlib.ExitStack() as stack:
        library = _library(stack, folder, setting)
        asking = Load(setting.loaders, setting.settle)
        stack.callback(asking.close)
        began = time.perf_counter()
        with ThreadPoolExecutor(8) as pool:
            bare = pool.submit(_bare, stack, folder, library)
            gated = pool.submit(_gated, stack, folder, library, "Lorary", {})
            others = [
                pool.submit(_gated, stack, folder, library, f"Lorary, {title}", variables)
                for title, variables in variants.items()
            ]
            library.grow(setting.slots)
        started = [server for one in others if (server := _up(one))]
        made = Pair(setting, library, gated.result(), bare.result(), asking, started)
        print(f"  servers are up after {time.perf_counter() - began:.0f} s", flush=True)
        made.warm_up()
        print(f"  and warm after {time.perf_counter() - began:.0f} s", flush=True)
        yield made


def _up(starting: Future[Served]) -> Served | None:
    """The started server; a variant that does not start is reported and left out."""
    try:
        return starting.result()
    except RuntimeError as error:
        print(f"  a variant did not start: {error}", flush=True)
        return None


def _library(stack: contextlib.ExitStack, folder: Path, setting: Setting) -> Library:
    if (BIN / "weed").exists():
        s3 = stack.enter_context(s3_server(folder))
        os.environ.update(s3.environment)
        library = Library(folder, f"s3://{BUCKET}/bench", setting, s3=s3.endpoint)
    else:
        library = Library(folder, str(folder / "store"), setting)
    library.local_folder.mkdir()
    stack.callback(library.registry.close)
    return library


def _sizes(setting: Setting) -> dict[str, Any]:
    """Settings that all servers share."""
    return {
        "model": str(setting.model),
        "base_name": setting.base.name,
        "verify_base": bool(setting.base.digest.strip("0")),
        "max_loras": setting.slots,
        "max_cpu_loras": setting.places,
        "max_model_len": 2048,
    }


def _gated(
    stack: contextlib.ExitStack,
    folder: Path,
    library: Library,
    title: str,
    variables: Mapping[str, str],
) -> Served:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    setting = library.setting
    shared = {f"LORARY_{key.upper()}": str(value) for key, value in _sizes(setting).items()}
    log = folder / f"{title.replace(', ', '-')}.log"
    process = stack.enter_context(
        running(
            [_lorary(), "serve", "--port", str(port), "--", *setting.options],
            log,
            ready=f"{url}/health",
            environment=shared
            | {
                "LORARY_STORE": library.url,
                "LORARY_ADAPTER_CACHE": str(folder / f"cache-{title}"),
                "LORARY_CACHE_BYTES": str(setting.disk_bytes),
                **variables,
            },
            seconds=setting.patience,
        )
    )
    return Served(title, url, "", library.headers, process.pid)


def _bare(stack: contextlib.ExitStack, folder: Path, library: Library) -> Served:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = ServingSettings(store=library.url, port=port, **_sizes(library.setting))
    chosen = PRESETS[settings.lora_preset].options
    lorarys_own = ("--middleware", "--worker-extension-cls")
    options = [
        option
        for option in arguments(settings, library.setting.options, chosen)
        if not option.startswith(lorarys_own)
    ]
    process = stack.enter_context(
        running(
            [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", *options],
            folder / "bare.log",
            ready=f"{url}/health",
            environment=environment(settings)
            | {
                "VLLM_PLUGINS": "lora_filesystem_resolver",
                "VLLM_LORA_RESOLVER_CACHE_DIR": str(library.local_folder),
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
                "VLLM_COMPUTE_NANS_IN_LOGITS": "0",
            },
            seconds=library.setting.patience,
        )
    )
    return Served("bare vLLM", url, "", {}, process.pid)


def _lorary() -> str:
    beside = BIN / "lorary"
    return str(beside) if beside.exists() else shutil.which("lorary") or "lorary"


def resident(served: Served) -> tuple[int, int]:
    """Resident bytes of the API process, and of the engine's processes."""
    process = psutil.Process(served.pid)
    children = process.children(recursive=True)
    return process.memory_info().rss, sum(child.memory_info().rss for child in children)


def cpu(served: Served) -> float:
    """Seconds of CPU that the API process has used."""
    times = psutil.Process(served.pid).cpu_times()
    return float(times.user + times.system)
