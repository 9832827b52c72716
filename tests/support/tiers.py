"""The tiers of a replica over a recorded engine: versions, and what is done with them."""

import asyncio
from collections.abc import Awaitable, Callable

from registry.model.catalog import Version
from registry.store.blobs import Blobs
from serving.tiers.batching import RequestBatcher
from serving.tiers.cache import AdapterCache
from serving.tiers.ranks import Rank, Ranks
from serving.tiers.residency import Residency
from serving.tiers.scheduler import SlotScheduler
from tests.support.replicas import Site
from tests.support.vllm_engine import VllmEngine

SIZE = len(b"{}") + len(b"weights 0")
"""Bytes of one of `versions`."""


def versions(site: Site, count: int) -> list[Version]:
    """So many adapters, one version each."""
    for number in range(count):
        site.publish("medical", f"many-{number}", f"weights {number}".encode())
    adapters = site.registry.catalog.adapters
    return [adapters[f"medical/many-{number}"].versions[0] for number in range(count)]


def made(
    site: Site,
    engine: VllmEngine,
    *,
    max_bytes: int = 1 << 30,
    max_names: int = 100,
    slots: int = 8,
    patience: float = 0.0,
) -> tuple[Residency, AdapterCache]:
    """Tiers with these bounds, and the disk's among them."""
    cache = AdapterCache(site.folder / "cache", Blobs(site.registry.store))
    rank = Rank(SlotScheduler(slots, 0.01), RequestBatcher(patience))
    ranks = Ranks([rank], engine.places)
    engine.max_cpu_loras = max_names
    residency = Residency(
        cache,
        engine.driven(),
        ranks,
        engine.tried(),
        max_bytes=max_bytes,
        max_names=max_names,
    )
    return residency, cache


async def use(residency: Residency, version: Version) -> str:
    """One request; the tier that it found the version in."""
    async with residency.hold(version) as tier:
        return tier


async def settled(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds, ten seconds at most."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never settled")


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Run it, half a minute at most."""

    async def bounded() -> None:
        await asyncio.wait_for(work(), 30)

    asyncio.run(bounded())
