"""What the processes take, sampled while they run, and whether it grows."""

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
import numpy as np
import psutil
from scipy.stats import linregress, t

from benchmarks.soak.site import Replica

SETTLED = 1 / 3
"""The share of a soak after which caches are full and nothing more ought to grow."""
BLOCKS = 12
LEAST_SECONDS = 600.0
"""The shortest settled time from which a growth per hour is judged."""

KEPT_PER_TENSOR = 64
"""Bytes that safetensors 0.8 never gives back of a tensor it read for PyTorch: the ends of a slice.
`python -m benchmarks.reading` measures them. vLLM reads every adapter so at each load."""
ENGINE, KEPT, REST = "engine RSS, MB", "kept by safetensors, MB", "engine RSS without that, MB"
IDLE_SECONDS = 15.0
"""How long a replica may take to have nothing in hand once nobody asks. It may just be trying a
version that was published."""
IN_HAND = ("lorary_requests_in_flight", "vllm:num_requests_running", "vllm:num_requests_waiting")
CHECKS, DIVERGED = "lorary_residency_checks_total", "lorary_residency_divergence_total"
LOADS = 'lorary_cold_load_phase_seconds_count{phase="engine"}'

TOLERANCE = {
    "server RSS, MB": 24.0,
    REST: 48.0,
    "open files": 4.0,
    "threads": 2.0,
    "engine names": 1.0,
    "disk, MB": 1.0,
    "metric series": 20.0,
}
"""Growth per hour that is not called growth, by what is to stay as it is."""


@dataclass
class Samples:
    """One process's samples since its last start."""

    times: list[float] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, now: float, sample: dict[str, float]) -> None:
        """Keep one sample."""
        self.times.append(now)
        for name, value in sample.items():
            self.values.setdefault(name, []).append(value)


@dataclass(frozen=True, slots=True)
class Growth:
    """How much something grew per hour over the settled time, with its 95 % interval."""

    what: str
    mean: float
    per_hour: float
    half_width: float
    judged: bool
    """Whether the time was long enough to tell."""

    @property
    def promised(self) -> bool:
        """Whether it is to stay as it is."""
        return self.what in TOLERANCE

    @property
    def grows(self) -> bool:
        """Whether it grew by more than is tolerated, beyond doubt."""
        return self.judged and self.per_hour - self.half_width > TOLERANCE[self.what]

    @property
    def text(self) -> str:
        """The figures."""
        seen = f"{self.mean:,.1f}, {self.per_hour:+,.2f} ± {self.half_width:,.2f} an hour"
        return seen if self.judged else f"{seen} (too short to tell)"


def growths(samples: Samples) -> list[Growth]:
    """Straight lines through the means of blocks of the settled time: samples that lie near each
    other are alike, and their blocks' means much less so."""
    if len(samples.times) < 2:
        return []
    begin = samples.times[0] + SETTLED * (samples.times[-1] - samples.times[0])
    kept = [i for i, moment in enumerate(samples.times) if moment >= begin]
    if len(kept) < BLOCKS:
        return []
    long_enough = samples.times[-1] - begin >= LEAST_SECONDS
    hours = np.array([samples.times[i] for i in kept]) / 3600
    found = []
    for what, values in samples.values.items():
        settled = np.array([values[i] for i in kept])
        x = np.array([block.mean() for block in np.array_split(hours, BLOCKS)])
        y = np.array([block.mean() for block in np.array_split(settled, BLOCKS)])
        line = linregress(x, y)
        half = float(t.ppf(0.975, BLOCKS - 2) * line.stderr)
        found.append(Growth(what, float(settled.mean()), float(line.slope), half, long_enough))
    return found


class Watch:
    """Samples every replica until it is over. Those that are away are left out."""

    def __init__(self, replicas: list[Replica], key: str, *, seconds: float, tensors: int) -> None:
        self.samples = {replica.name: Samples() for replica in replicas}
        self._replicas = replicas
        self._headers = {"Authorization": f"Bearer {key}"}
        self._seconds = seconds
        self._kept_per_load = tensors * KEPT_PER_TENSOR / 1e6
        self.held: float | None = None
        """What the replica that was never restarted still had in hand once nobody asked."""
        self.checks: dict[str, float] = {}
        """Comparisons of each replica's belief with its engine's list since its last start."""
        self.diverged: Counter[str] = Counter()
        """Adapters in which the two differed, by replica."""

    async def until_idle(self, replica: Replica) -> float:
        """Wait until the replica has nothing in hand; what it has after a bounded time."""
        deadline = time.monotonic() + IDLE_SECONDS
        async with httpx.AsyncClient(headers=self._headers, timeout=20) as client:
            while True:
                series = await _series(client, replica)
                held = sum(v for name, v in series.items() if name.startswith(IN_HAND))
                if not held or time.monotonic() > deadline:
                    return held
                await asyncio.sleep(0.1)

    async def run(self, over: asyncio.Event) -> None:
        """Sample until it is over."""
        async with httpx.AsyncClient(headers=self._headers, timeout=20) as client:
            while not over.is_set():
                for replica in self._replicas:
                    with contextlib.suppress(httpx.HTTPError, psutil.Error):
                        sample = await self._sample(client, replica)
                        self.samples[replica.name].add(time.monotonic(), sample)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), self._seconds)

    async def _sample(self, client: httpx.AsyncClient, replica: Replica) -> dict[str, float]:
        series = await _series(client, replica)
        self.checks[replica.name] = series.get(CHECKS, 0.0)
        diverged = sum(value for name, value in series.items() if name.startswith(DIVERGED))
        self.diverged[replica.name] = max(self.diverged[replica.name], int(diverged))
        server, engine = replica.processes()
        sample = {
            "server RSS, MB": server.memory_info().rss / 1e6,
            "open files": float(server.num_fds()),
            "threads": float(server.num_threads()),
            "engine names": series["lorary_engine_names"],
            "disk, MB": replica.on_disk() / 1e6,
            "metric series": float(len(series)),
        }
        if engine is not None:
            loads = series.get(LOADS, 0.0)
            sample[ENGINE] = engine.memory_info().rss / 1e6
            sample[KEPT] = loads * self._kept_per_load
            sample[REST] = sample[ENGINE] - sample[KEPT]
        return sample


async def _series(client: httpx.AsyncClient, replica: Replica) -> dict[str, float]:
    """The replica's metrics now, by name and labels."""
    page = await client.get(f"{replica.url}/metrics")
    page.raise_for_status()
    lines = (line for line in page.text.splitlines() if line and line[0] != "#")
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}
