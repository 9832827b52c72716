"""How many replicas, slots and bytes a load takes. Pure: measured curves in, a plan out.

A curve says what one replica did on given hardware: answers a second and seconds to the first token
by how many requests ran at once (`python -m benchmarks.fleet.curves` measures one). Which adapters
are asked for follows a Zipf law; with affinity each replica is asked for its share of them, and how
often one is still in memory is Che's approximation of a least-recently-used cache.

Source: H. Che et al., "Hierarchical Web caching systems", IEEE JSAC 20(7), 2002.
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.errors import CannotPlan

GIB = 1 << 30
LARGEST = 1_000_000
"""Adapters beyond which the tail is one of a kind and need not be counted out."""


class Point(msgspec.Struct, frozen=True):
    """What one replica did with so many requests at once, every adapter in memory."""

    at_once: int
    per_second: float
    first_p50: float
    first_p99: float


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of one replica."""

    hardware: str
    model: str
    tokens: int
    """Made for each request."""
    rank: int
    adapter_bytes: int
    """Of one adapter of that rank."""
    points: tuple[Point, ...]
    cold_disk: float
    """Seconds more that a first request takes when the adapter is on the replica's disk."""
    cold_bucket: float
    """Seconds more when it is only in the bucket."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be served."""

    adapters: int
    per_second: float
    """Requests, at the busiest."""
    tokens: int
    """Made for each."""
    rank: int
    skew: float = 1.0
    """Zipf's exponent: 0 asks all alike, 1 is usual for people's choices."""
    first_seconds: float = 2.0
    """What the 99th percentile to the first token shall stay below, adapters in memory."""
    resident: float = 0.99
    """Share of requests whose adapter shall be in memory."""
    headroom: float = 0.3
    """Share of each replica's capacity that is left for the loss of others and for bursts."""
    price: float = 0.0
    """Of one replica for an hour."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What it takes."""

    replicas: int
    at_once: int
    """Requests running in one replica."""
    slots: int
    """LORARY_MAX_LORAS."""
    memory_adapters: int
    """LORARY_MAX_CPU_LORAS."""
    memory_gib: float
    """Host memory of one replica for adapters."""
    disk_gib: float
    """Disk of one replica for all adapters that it is asked for."""
    bucket_gib: float
    """Newest versions of all adapters."""
    resident: float
    """Share of requests whose adapter is in memory."""
    cold_seconds: float
    """What the others wait more."""
    price_per_hour: float
    per_million_tokens: float


def parse(data: bytes) -> Curve:
    """A measured curve; raises `CannotPlan`."""
    try:
        curve = msgspec.json.decode(data, type=Curve)
    except ValueError as error:
        raise CannotPlan(
            f"That is no measured curve: {error}. Make one: python -m benchmarks.fleet.curves"
        ) from error
    if not curve.points or any(point.per_second <= 0 for point in curve.points):
        raise CannotPlan("The curve has no points. Measure again.")
    return curve


def plan(curve: Curve, load: Load) -> Plan:
    """The smallest fleet that carries `load`. Raises `CannotPlan` if no number of replicas can."""
    point = best(curve, load.first_seconds)
    # A longer answer takes a replica as much longer as it has more tokens.
    one = point.per_second * curve.tokens / load.tokens * (1 - load.headroom)
    replicas = max(1, math.ceil(load.per_second / one))
    weights = zipf(min(load.adapters, LARGEST), load.skew)
    per_replica = _share(weights, replicas)
    memory = fitting(per_replica, load.resident)
    adapter_bytes = curve.adapter_bytes * load.rank / curve.rank
    resident = hit_share(per_replica, memory)
    running = max(1, round(point.at_once * (1 - load.headroom)))
    distinct = float((1 - (1 - per_replica) ** running).sum())
    hourly = replicas * load.price
    made = load.per_second * load.tokens * 3600
    return Plan(
        replicas=replicas,
        at_once=point.at_once,
        slots=min(max(1, math.ceil(distinct)), memory, point.at_once),
        memory_adapters=memory,
        memory_gib=memory * adapter_bytes / GIB,
        disk_gib=load.adapters / replicas * adapter_bytes / GIB,
        bucket_gib=load.adapters * adapter_bytes / GIB,
        resident=resident,
        cold_seconds=curve.cold_disk,
        price_per_hour=hourly,
        per_million_tokens=hourly / made * 1e6,
    )


def best(curve: Curve, first_seconds: float) -> Point:
    """The measured point that serves most within the wanted time to the first token."""
    quick = [point for point in curve.points if point.first_p99 <= first_seconds]
    if not quick:
        least = min(curve.points, key=lambda point: point.first_p99)
        raise CannotPlan(
            f"On {curve.hardware} even {least.at_once} at once took {least.first_p99:.2f} s to the "
            f"first token (p99). Allow more than {first_seconds:g} s, or measure faster hardware."
        )
    return max(quick, key=lambda point: point.per_second)


def zipf(adapters: int, skew: float) -> NDArray[np.float64]:
    """The share of requests for each adapter, the busiest first."""
    weights: NDArray[np.float64] = np.arange(1, adapters + 1, dtype=np.float64) ** -skew
    weights /= weights.sum()
    return weights


def _share(weights: NDArray[np.float64], replicas: int) -> NDArray[np.float64]:
    """What one of `replicas` is asked for: one adapter in `replicas`, since hashing mixes them."""
    mine = weights[::replicas].copy()
    mine /= mine.sum()
    return mine


def hit_share(weights: NDArray[np.float64], places: int) -> float:
    """Share of requests whose adapter is among the `places` last asked for (Che)."""
    if places >= len(weights):
        return 1.0
    # The time in which `places` different ones are asked for, by bisection.
    low, high = 0.0, 1.0
    while _distinct(weights, high) < places:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if _distinct(weights, middle) < places:
            low = middle
        else:
            high = middle
    return float((weights * (1 - np.exp(-weights * high))).sum())


def _distinct(weights: NDArray[np.float64], requests: float) -> float:
    return float((1 - np.exp(-weights * requests)).sum())


def fitting(weights: NDArray[np.float64], wanted: float) -> int:
    """The fewest places with which `wanted` of the requests find their adapter in memory."""
    low, high = 1, len(weights)
    while low < high:
        middle = (low + high) // 2
        if hit_share(weights, middle) >= wanted:
            high = middle
        else:
            low = middle + 1
    return low


def at(points: Sequence[Point], running: int) -> tuple[float, float]:
    """Answers a second and median seconds to the first token with `running` at once, between the
    measured points by straight lines, and beyond the last as at the last."""
    xs = [point.at_once for point in points]
    rate = np.interp(running, xs, [point.per_second for point in points])
    first = np.interp(running, xs, [point.first_p50 for point in points])
    return float(rate), float(first)
