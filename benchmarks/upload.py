"""A 2 GB adapter pushed to a registry on real S3, killed half-way, and pushed again.

    python -m benchmarks.upload                  # or: make bench-upload

Prints what was sent twice, and the peak memory of the client and of the registry. The base model is
made up so that an adapter of rank 16 has the size; the weights are random. What was sent is counted
from the client's own progress, at most 256 KiB behind the socket.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from adapters.base_model import BaseModel
from registry.client import RegistryClient
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import open_store
from registry.store.s3 import PART
from tests.support.adapters import CARD, config
from tests.support.s3 import BUCKET, s3_server
from tests.support.servers import registry_server

RANK, IN, OUT = 16, 16384, 65536
PUSH = """
import json, pathlib, sys, threading
from registry.client import RegistryClient
url, key, directory, out, parallel = sys.argv[1:]
first, last = {}, {}
def progress(name, done, total):
    first.setdefault(name, done)
    last[name] = done
    if name.endswith("safetensors"):
        whole = pathlib.Path(out + "." + str(threading.get_ident()))
        whole.write_text(json.dumps([first[name], done, total]))
        whole.replace(out)
with RegistryClient(url, key, timeout=600) as client:
    client.push(pathlib.Path(directory), "bench/large", parallel=int(parallel), progress=progress)
"""


@dataclass(frozen=True)
class Outcome:
    """One run's figures: sizes in bytes, times in seconds."""

    size: int
    connections: int
    part: int
    sent_before_the_kill: int
    sent_afterwards: int
    sent_twice: int
    client_peak: int
    registry_peak: int
    seconds_of_the_second_push: float


def main() -> None:
    """Run with one connection and with four."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        directory, base = write_large(Path(folder, "adapter"), int(options.gigabytes * 1e9))
        for connections in (1, 4):
            outcome = run(Path(folder), directory, base, connections)
            show(outcome)
            outcomes.append(asdict(outcome))
    if options.json:
        options.json.write_text(json.dumps(outcomes, indent=2) + "\n")


def write_large(directory: Path, size: int) -> tuple[Path, BaseModel]:
    """A valid adapter of about `size` bytes, written module by module."""
    count = round(size / (4 * RANK * (IN + OUT)))
    modules = {f"model.layers.{n}.mlp.up_proj": (OUT, IN) for n in range(count)}
    base = BaseModel(name="large", digest="2" * 64, modules=modules)
    directory.mkdir()
    header: dict[str, object] = {}
    at = 0
    for module in modules:
        for name, shape in (("lora_A", [RANK, IN]), ("lora_B", [OUT, RANK])):
            end = at + 4 * shape[0] * shape[1]
            key = f"base_model.model.{module}.{name}.weight"
            header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [at, end]}
            at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(0)
    with (directory / "adapter_model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        written = 0
        while written < at:
            count_now = min(4 << 20, at - written) // 4
            file.write(random.normal(0, 0.02, count_now).astype(np.float32).tobytes())
            written += 4 * count_now
    described = config(base_model_name_or_path="large", r=RANK, target_modules=["up_proj"])
    (directory / "adapter_config.json").write_text(json.dumps(described))
    (directory / "README.md").write_text(CARD)
    return directory, base


def run(folder: Path, directory: Path, base: BaseModel, connections: int) -> Outcome:
    """Push, kill half-way, push again; on a server of its own."""
    work = folder / str(connections)
    work.mkdir()
    with s3_server(work) as s3, contextlib.ExitStack() as stack:
        os.environ.update(s3.environment)
        store = f"s3://{BUCKET}/upload"
        opened = open_store(store, s3_endpoint=s3.endpoint)
        key = Registry.create(opened, name="bench", key_name="bench").text
        environment = {"LORARY_MAX_UPLOAD_BYTES": str(8 << 30)}
        url = stack.enter_context(registry_server(store, work, environment))
        with RegistryClient(url, key) as client:
            client.execute(CreateDomain("bench", Policy(guarded=())))
            client.add_base(base)
        registry = Peak(_listening(url))
        said = work / "progress.json"
        arguments = [url, key, str(directory), str(said), str(connections)]
        first = subprocess.Popen([sys.executable, "-c", PUSH, *arguments])
        before = Peak(first.pid)
        while first.poll() is None and _said(said)[1] < _said(said)[2] / 2:
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        first.wait()
        _, sent, size = _said(said)
        said.unlink()
        began = time.monotonic()
        second = subprocess.Popen([sys.executable, "-c", PUSH, *arguments])
        after = Peak(second.pid)
        if second.wait() != 0:
            raise SystemExit("the second push failed")
        took = time.monotonic() - began
        skipped, _, _ = _said(said)
        return Outcome(
            size=size,
            connections=connections,
            part=PART,
            sent_before_the_kill=sent,
            sent_afterwards=size - skipped,
            sent_twice=sent + (size - skipped) - size,
            client_peak=max(before.stop(), after.stop()),
            registry_peak=registry.stop(),
            seconds_of_the_second_push=round(took, 1),
        )


class Peak:
    """The most resident memory a process had, sampled every 20 ms."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """The peak in bytes."""
        self._ended.set()
        self._thread.join()
        return self._peak

    def _sample(self) -> None:
        with contextlib.suppress(psutil.Error):
            while not self._ended.wait(0.02):
                self._peak = max(self._peak, self._process.memory_info().rss)


def _listening(url: str) -> int:
    port = url.rpartition(":")[2]
    for process in psutil.process_iter(["cmdline"]):
        if port in (process.info["cmdline"] or []):
            return int(process.pid)
    raise SystemExit("the registry's process was not found")


def _said(path: Path) -> tuple[int, int, int]:
    """First, latest and total bytes of the weights, as the client says."""
    with contextlib.suppress(OSError, ValueError):
        first, done, total = json.loads(path.read_text())
        return first, done, total
    return 0, 0, 1


def show(outcome: Outcome) -> None:
    """Print one run."""
    print(f"\n{outcome.size / 1e9:.2f} GB, {outcome.connections} connection(s)")
    for name, value in (
        ("a part", outcome.part),
        ("sent before the kill", outcome.sent_before_the_kill),
        ("sent afterwards", outcome.sent_afterwards),
        ("sent twice", outcome.sent_twice),
        ("peak memory, client", outcome.client_peak),
        ("peak memory, registry", outcome.registry_peak),
    ):
        print(f"  {name:24} {value / 1e6:9.1f} MB")
    print(f"  {'sent twice, in parts':24} {outcome.sent_twice / outcome.part:9.2f}")
    print(f"  {'second push took':24} {outcome.seconds_of_the_second_push:9.1f} s")


if __name__ == "__main__":
    main()
