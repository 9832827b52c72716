"""A small closed-loop load: so many requests, so many at once; each one's seconds."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import httpx


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send which request."""

    name: str
    url: str
    body: dict[str, Any]
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Round:
    """What one round measured: seconds in all, and per request."""

    seconds: float
    latencies: tuple[float, ...]

    @property
    def throughput(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.seconds


async def run_round(target: Target, *, requests: int, concurrency: int) -> Round:
    """Send `requests` requests, `concurrency` at a time; raises unless each answers 200."""
    latencies: list[float] = []
    remaining = iter(range(requests))
    async with httpx.AsyncClient(
        timeout=120, limits=httpx.Limits(max_connections=concurrency)
    ) as client:

        async def caller() -> None:
            for _ in remaining:
                began = time.perf_counter()
                reply = await client.post(target.url, json=target.body, headers=target.headers)
                reply.raise_for_status()
                latencies.append(time.perf_counter() - began)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as callers:
            for _ in range(concurrency):
                callers.create_task(caller())
        return Round(time.perf_counter() - began, tuple(latencies))


async def alternate(
    a: Target, b: Target, *, rounds: int, requests: int, concurrency: int
) -> tuple[list[Round], list[Round]]:
    """Rounds of `a` and `b` in turn, the first of each pair alternating, after one warm-up each."""
    for target in (a, b):
        await run_round(target, requests=concurrency * 2, concurrency=concurrency)
    results: dict[str, list[Round]] = {a.name: [], b.name: []}
    for index in range(rounds):
        for target in (a, b) if index % 2 == 0 else (b, a):
            done = await run_round(target, requests=requests, concurrency=concurrency)
            results[target.name].append(done)
    return results[a.name], results[b.name]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0..1) of the values lie, by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: Sequence[float], form: str) -> str:
    """Median, and minimum to maximum in brackets."""
    return f"{median(values):{form}} [{min(values):{form}} .. {max(values):{form}}]"


def summarise(
    title: str, concurrency: int, bare: list[Round], through: list[Round]
) -> dict[str, object]:
    """What a server in between adds to a load: paired ratios and differences; prints them, too."""
    ratios = [b.throughput / a.throughput for a, b in zip(bare, through, strict=True)]
    added = {
        share: [
            1000 * (percentile(b.latencies, share) - percentile(a.latencies, share))
            for a, b in zip(bare, through, strict=True)
        ]
        for share in (0.5, 0.99)
    }
    print(f"\n{title}, {concurrency} at once, {len(bare)} paired rounds; median [min .. max]")
    print(f"  bare, requests/s          {spread([r.throughput for r in bare], '.1f')}")
    print(f"  through it, requests/s    {spread([r.throughput for r in through], '.1f')}")
    print(f"  through it / bare         {spread(ratios, '.3f')}")
    print(f"  added p50, ms             {spread(added[0.5], '.2f')}")
    print(f"  added p99, ms             {spread(added[0.99], '.2f')}")
    return {
        "upstream": title,
        "concurrency": concurrency,
        "rounds": len(bare),
        "throughput_ratio": median(ratios),
        "throughput_ratios": ratios,
        "added_p50_ms": median(added[0.5]),
        "added_p99_ms": median(added[0.99]),
    }
