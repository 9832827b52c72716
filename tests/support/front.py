"""The chart's own Envoy configuration, in a real Envoy on this machine."""

import contextlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.helm import render
from tests.support.servers import BIN, free_port, running

PORTS = {8000: "api", 9901: "admin", 9902: "stats"}
BASE = "tiny"


@dataclass(frozen=True)
class Front:
    """Where it listens."""

    url: str
    stats: str
    process: subprocess.Popen[bytes]
    chart: dict[str, Any]
    ports: Mapping[str, int]

    def counter(self, name: str, cluster: str) -> float:
        """One of Envoy's own counters for a pool."""
        wanted = f'{name}{{envoy_cluster_name="{cluster}"}} '
        lines = httpx.get(f"{self.stats}/stats/prometheus").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(wanted))

    def resident(self) -> int:
        """Bytes of memory that the process has, its code apart."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        [line] = [line for line in lines if line.startswith("RssAnon")]
        return int(line.split()[1]) << 10

    def healthy(self, cluster: str) -> int:
        """How many replicas of a pool it sends to."""
        return int(self.counter("envoy_cluster_membership_healthy", cluster))


def write(chart: dict[str, Any], folder: Path, ports: Mapping[str, int]) -> Path:
    """Every file of the front's ConfigMap for these values, on these ports of this machine; Envoy's
    own. Files that are there already are replaced whole, as the kubelet replaces them."""
    [files] = (
        manifest["data"]
        for manifest in render(chart, only="front.yaml")
        if manifest["kind"] == "ConfigMap"
    )
    for name, text in files.items():
        for port, use in PORTS.items():
            # In `clusters.yaml` 8000 is a replica's.
            if name != "clusters.yaml":
                text = text.replace(f"port_value: {port}", f"port_value: {ports[use]}")
            text = text.replace(f"127.0.0.1/{port}", f"127.0.0.1/{ports[use]}")
        text = text.replace('address: "0.0.0.0"', "address: 127.0.0.1")
        fresh = folder / f".{name}"
        fresh.write_text(text.replace("/etc/envoy", str(folder)))
        fresh.rename(folder / name)
    return folder / "envoy.yaml"


@contextlib.contextmanager
def front(
    pools: Mapping[str, Sequence[int]],
    folder: Path,
    *,
    domains: Mapping[str, Sequence[str]] | None = None,
    **values: Any,
) -> Iterator[Front]:
    """Envoy before replicas on these ports of this machine; `values` are the chart's of `front`."""
    served = {
        name: {
            "base": BASE if not (domains or {}).get(name) else f"{BASE}-{name}",
            "model": "/models/any",
            "domains": list((domains or {}).get(name, [])),
            "endpoints": [{"address": "localhost", "port": port} for port in ports],
        }
        for name, ports in pools.items()
    }
    chart = {"store": {"url": "s3://bucket/prefix"}, "pools": served, "front": values}
    ports = {name: free_port() for name in PORTS.values()}
    path = write(chart, folder, ports)
    stats = f"http://127.0.0.1:{ports['stats']}"
    command = [str(BIN / "envoy"), "-c", str(path), "--concurrency", "1", "--log-level", "warning"]
    # Several run on one machine at once.
    command += ["--disable-hot-restart", "--file-flush-interval-msec", "100"]
    with running(command, folder / "envoy.log", ready=f"{stats}/ready") as process:
        yield Front(f"http://127.0.0.1:{ports['api']}", stats, process, chart, ports)
