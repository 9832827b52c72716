"""A real Prometheus over chosen processes, and what it answers."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.helm import CHART
from tests.support.servers import free_port, running

RULES = CHART / "files" / "alerts.yaml"


@dataclass(frozen=True)
class Target:
    """What is scraped, under which job and pool; `key` authenticates."""

    job: str
    address: str
    path: str = "/metrics"
    key: str = ""
    pool: str = ""


@dataclass(frozen=True)
class Prometheus:
    """A running one."""

    url: str

    def ask(self, expr: str) -> list[dict[str, Any]]:
        """An expression's series now; raises `ValueError` with Prometheus' words if it is wrong."""
        reply = httpx.post(f"{self.url}/api/v1/query", data={"query": expr}, timeout=30).json()
        if reply["status"] != "success":
            raise ValueError(f"{expr}: {reply['error']}")
        found: list[dict[str, Any]] = reply["data"]["result"]
        return found

    def values(self, expr: str) -> list[float]:
        """An expression's values now, without those that are no number."""
        found = (float(series["value"][1]) for series in self.ask(expr))
        return [value for value in found if not math.isnan(value)]

    def history(self, expr: str, seconds: float, step: float) -> list[dict[str, Any]]:
        """An expression's series over the last `seconds`."""
        now = time.time()
        asked = {"query": expr, "start": now - seconds, "end": now, "step": step}
        reply = httpx.post(f"{self.url}/api/v1/query_range", data=asked, timeout=60).json()
        if reply["status"] != "success":
            raise ValueError(f"{expr}: {reply['error']}")
        found: list[dict[str, Any]] = reply["data"]["result"]
        return found


@contextlib.contextmanager
def prometheus(targets: Sequence[Target], folder: Path) -> Iterator[Prometheus]:
    """Prometheus with the chart's rules, looking every second; ready when it has seen all."""
    port = free_port()
    jobs = [_job(number, target, folder) for number, target in enumerate(targets)]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules.yaml")],
        "scrape_configs": jobs,
    }
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        group.pop("interval", None)
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{port}"
    command = [
        "prometheus", f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'prometheus'}", f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with running(command, folder / "prometheus.log", ready=f"{url}/-/ready"):
        made = Prometheus(url)
        _await(made, len(targets))
        yield made


def _job(number: int, target: Target, folder: Path) -> dict[str, Any]:
    labels = {"job": target.job} | ({"pool": target.pool} if target.pool else {})
    job: dict[str, Any] = {
        "job_name": f"{target.job}-{number}",
        "metrics_path": target.path,
        "static_configs": [{"targets": [target.address], "labels": labels}],
    }
    if target.key:
        secret = folder / f"key-{number}"
        secret.write_text(target.key)
        job["authorization"] = {"credentials_file": str(secret)}
    return job


def _await(made: Prometheus, targets: int) -> None:
    deadline = time.monotonic() + 30
    while sum(made.values("up")) < targets:
        if time.monotonic() > deadline:
            raise RuntimeError(f"Prometheus does not see all of {targets}: {made.ask('up')}")
        time.sleep(0.3)
