"""What a version may take of the engine for work that nobody waits for: what is free, no more."""

import asyncio

import pytest

from registry.model.catalog import Version
from serving.errors import NothingFree
from serving.tiers.batching import RequestBatcher
from serving.tiers.ranks import Rank, Ranks
from serving.tiers.residency import Residency
from serving.tiers.scheduler import SlotScheduler
from tests.support.replicas import Site
from tests.support.tiers import made, run, settled, use, versions
from tests.support.vllm_engine import VllmEngine


async def borrow(residency: Residency, version: Version) -> None:
    async with residency.borrow(version):
        assert residency.tier(version) == "engine"


def test_a_free_place_is_taken_and_is_the_first_to_be_given_back(site: Site) -> None:
    engine = VllmEngine()
    residency, _ = made(site, engine, max_names=2)
    first, second, third, fourth = versions(site, 4)

    async def work() -> None:
        await use(residency, first)
        await borrow(residency, second)
        await borrow(residency, second)
        await use(residency, third)
        assert engine.holds() == {str(first.ref), str(third.ref)}, "borrowing is no use"
        await use(residency, fourth)

    run(work)
    assert engine.evicted == []


def test_no_place_is_taken_from_a_version_that_was_used_or_warmed(site: Site) -> None:
    engine = VllmEngine()
    residency, _ = made(site, engine, max_names=2)
    first, second, third = versions(site, 3)

    async def work() -> None:
        await use(residency, first)
        await residency.warm(second)
        for _ in range(2):
            with pytest.raises(NothingFree) as refused:
                await borrow(residency, third)
            assert refused.value.reason == "cold"
        assert engine.holds() == {str(first.ref), str(second.ref)}
        await borrow(residency, second)

    run(work)


def test_no_slot_is_taken_that_another_version_has_or_waits_for(site: Site) -> None:
    engine = VllmEngine()
    residency, _ = made(site, engine, slots=1)
    first, second, third = versions(site, 3)

    async def work() -> None:
        for version in (first, second, third):
            await use(residency, version)
        async with residency.hold(first):
            await borrow(residency, first)
            with pytest.raises(NothingFree) as refused:
                await borrow(residency, second)
            assert refused.value.reason == "busy"
            assert not residency.contended
            waiting = asyncio.create_task(use(residency, third))
            await settled(lambda: residency.contended)
            with pytest.raises(NothingFree):
                await borrow(residency, first)
        await waiting
        assert not residency.contended
        await borrow(residency, second)

    run(work)


def test_there_is_no_room_while_anybody_waits_for_a_slot() -> None:
    ranks = Ranks([Rank(SlotScheduler(1, 60.0), RequestBatcher(0.0))], places=8)

    async def wait() -> None:
        async with ranks.take("b"):
            pass

    async def work() -> None:
        async with ranks.take("a"):
            assert ranks.has_room("a")
            assert not ranks.has_room("b")
            waiting = asyncio.create_task(wait())
            await settled(lambda: ranks.waiting == 1)
            assert not ranks.has_room("a"), "its turn is not over, yet another waits for its end"
        await waiting
        assert ranks.has_room("b")

    run(work)


def test_somebody_who_waits_for_a_place_in_memory_shows(site: Site) -> None:
    engine = VllmEngine()
    residency, _ = made(site, engine, max_names=1)
    first, second = versions(site, 2)

    async def work() -> None:
        async with residency.borrow(first):
            waiting = asyncio.create_task(use(residency, second))
            await settled(lambda: residency.contended)
        await waiting
        assert not residency.contended

    run(work)


def test_files_of_a_borrowed_version_are_the_first_to_make_room_on_the_disk(site: Site) -> None:
    engine = VllmEngine()
    first, second, third = versions(site, 3)
    residency, cache = made(site, engine, max_bytes=2 * first.size)

    async def work() -> None:
        await use(residency, first)
        await borrow(residency, second)
        await use(residency, third)
        await settled(lambda: not cache.holds(second))
        assert cache.holds(first)
        assert cache.holds(third)

    run(work)
