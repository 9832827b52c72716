"""Where versions are, what makes room, and what is never taken from under a request."""

import asyncio
import contextlib
from contextlib import AsyncExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client import REGISTRY

from registry.model.catalog import Version
from serving.errors import DiskFull, EngineRefused
from serving.tiers.residency import Residency
from tests.support.replicas import Site
from tests.support.tiers import SIZE, made, run, settled, use, versions
from tests.support.vllm_engine import VllmEngine


def test_a_version_comes_up_tier_by_tier_and_is_loaded_once(site: Site) -> None:
    engine = VllmEngine()
    (version,) = versions(site, 1)

    async def work() -> None:
        residency, _ = made(site, engine)
        tiers = await asyncio.gather(*(use(residency, version) for _ in range(20)))
        assert tiers[0] == "bucket"
        assert await use(residency, version) == "engine"

    run(work)
    assert engine.loads == [str(version.ref)]


def test_the_least_popular_is_evicted_and_its_name_goes_before_its_files(site: Site) -> None:
    engine = VllmEngine()
    many = versions(site, 4)

    async def work() -> None:
        residency, cache = made(site, engine, max_bytes=3 * SIZE)
        for version in (many[0], many[1], many[2], many[0]):
            await use(residency, version)
        await use(residency, many[3])
        await settled(lambda: not cache.path(many[1]).exists())
        given_back = [name for name in engine.loads if name.startswith("-")]
        assert given_back == [f"-{many[1].ref}"]
        assert [cache.path(v).exists() for v in many] == [True, False, True, True]
        assert residency.tier(many[1]) == "bucket"
        assert await use(residency, many[1]) == "bucket"

    run(work)


def test_adapters_requested_once_do_not_push_out_those_requested_all_the_time(site: Site) -> None:
    """Two hot adapters in three places: with LRU each round of two others evicted both."""
    engine = VllmEngine()
    many = versions(site, 12)

    async def work() -> None:
        residency, cache = made(site, engine, max_names=3, max_bytes=4 * SIZE)
        for number in range(2, 12, 2):
            for version in (*many[:2], *many[:2], *many[number : number + 2]):
                await use(residency, version)
            await settled(lambda: cache.bytes <= 4 * SIZE)
            assert [residency.tier(version) for version in many[:2]] == ["engine"] * 2

    run(work)
    assert [engine.loads.count(str(version.ref)) for version in many[:2]] == [1, 1]


def test_files_of_adapters_requested_once_make_room_for_those_requested_often(site: Site) -> None:
    engine = VllmEngine()
    hot, *others = versions(site, 6)

    async def work() -> None:
        residency, cache = made(site, engine, max_names=1, max_bytes=2 * SIZE)
        for _ in range(3):
            await use(residency, hot)
        for version in others:
            await use(residency, version)
            await settled(lambda: cache.bytes <= 2 * SIZE)
            assert cache.holds(hot), "it would be downloaded again for its next request"

    run(work)


def test_requests_and_trials_enter_the_engine_together(site: Site) -> None:
    """Each step with a new prompt delays all running answers, a trial's as well."""
    engine = VllmEngine()
    running, *others = versions(site, 7)
    entered = []

    async def ask(residency: Residency, version: Version) -> None:
        async with residency.hold(version):
            entered.append(len(engine.probes))

    async def work() -> None:
        residency, _ = made(site, engine, patience=1.0)
        async with AsyncExitStack() as stack:
            for _ in range(20):
                await stack.enter_async_context(residency.hold(running))
            engine.probes.clear()
            asking = [asyncio.create_task(ask(residency, version)) for version in others]
            await settled(lambda: all(residency.tier(other) == "engine" for other in others))
            assert (engine.probes, entered) == ([], [])
            await asyncio.gather(*asking)
        assert entered == [6] * 6, "no request ran before all were tried"

    run(work)


def test_names_are_bounded_even_where_the_disk_is_not(site: Site) -> None:
    engine = VllmEngine()
    many = versions(site, 6)

    async def work() -> None:
        residency, cache = made(site, engine, max_names=2)
        for version in many:
            await use(residency, version)
            assert residency.names <= 2
        assert len(cache) == 6
        assert residency.tier(many[0]) == "disk"

    run(work)
    assert (engine.most, engine.evicted) == (2, [])


def test_adapters_that_are_loaded_at_the_same_time_count_before_they_are_there(site: Site) -> None:
    engine = VllmEngine(load_seconds=0.02)
    many = versions(site, 6)

    async def work() -> None:
        residency, cache = made(site, engine, max_names=3)
        for version in many:
            await cache.ensure(version)
        await asyncio.gather(*(use(residency, version) for version in many * 3))

    run(work)
    assert (engine.most, engine.evicted) == (3, [])


def test_an_adapter_that_a_request_holds_is_not_removed_from_the_engine(site: Site) -> None:
    engine = VllmEngine()
    held, *others = versions(site, 4)

    async def work() -> None:
        residency, _ = made(site, engine, max_names=2)
        async with residency.hold(held), residency.hold(others[0]):
            waiting = asyncio.create_task(use(residency, others[1]))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            assert engine.holds() == {str(held.ref), str(others[0].ref)}
        await waiting
        async with residency.hold(held):
            for version in others * 2:
                await use(residency, version)
                engine.step(str(held.ref))

    run(work)
    assert engine.reread == []


def test_a_name_that_is_asked_for_while_another_of_the_same_bytes_is_removed_stays(
    site: Site,
) -> None:
    engine = VllmEngine()
    for name in ("one", "two", "three"):
        site.publish("medical", name, b"the same" if name != "three" else b"other")
    adapters = site.registry.catalog.adapters
    one, two, three = (adapters[f"medical/{name}"].versions[0] for name in ("one", "two", "three"))
    assert one.digest == two.digest

    async def work() -> None:
        residency, _ = made(site, engine, max_names=2)
        await use(residency, one)
        await use(residency, two)
        engine.removing = asyncio.Event()
        waiting = asyncio.create_task(use(residency, three))
        await settled(lambda: len(engine.lora_requests) == 1)
        (kept,) = (version for version in (one, two) if str(version.ref) in engine.lora_requests)
        async with residency.hold(kept) as tier:
            assert tier == "engine"
            engine.removing.set()
            await waiting
            engine.step(str(kept.ref))

    run(work)
    assert engine.reread == []


def test_what_a_request_holds_is_not_taken(site: Site) -> None:
    engine = VllmEngine()
    first, second, third = versions(site, 3)

    async def work() -> None:
        residency, cache = made(site, engine, max_bytes=SIZE)
        async with residency.hold(first):
            await use(residency, second)
            await use(residency, third)
            await settled(lambda: cache.bytes <= 2 * SIZE)
            assert cache.path(first).exists()
            assert residency.tier(first) == "engine"
        await settled(lambda: cache.bytes <= SIZE)

    run(work)


def test_files_come_while_their_adapter_waits_for_its_turn(site: Site) -> None:
    engine = VllmEngine()
    first, second = versions(site, 2)

    async def work() -> None:
        residency, cache = made(site, engine, slots=1)
        async with residency.hold(first):
            asking = asyncio.create_task(use(residency, second))
            await settled(lambda: cache.holds(second))
            assert not asking.done()
            assert engine.loads == [str(first.ref)], "its slot is not free yet"
        assert await asking == "bucket"
        assert engine.loads == [str(first.ref), str(second.ref)]

    run(work)


def test_what_has_just_come_is_not_read_a_second_time(site: Site) -> None:
    engine = VllmEngine()
    (version,) = versions(site, 1)

    def looks() -> float:
        name, labels = "lorary_cold_load_phase_seconds_count", {"phase": "verify"}
        return REGISTRY.get_sample_value(name, labels) or 0.0

    async def work() -> None:
        residency, _ = made(site, engine)
        before = looks()
        assert await use(residency, version) == "bucket"
        assert looks() - before == 1, "once, to see that it was not there"

    run(work)


def test_a_hint_takes_no_turn(site: Site) -> None:
    engine = VllmEngine()
    first, second = versions(site, 2)

    async def work() -> None:
        residency, _ = made(site, engine, slots=1)
        async with residency.hold(first):
            await residency.warm(second)
            assert residency.tier(second) == "engine"

    run(work)


def test_a_restart_counts_what_lies_there_and_drops_the_oldest_first(site: Site) -> None:
    engine = VllmEngine()
    many = versions(site, 3)

    async def work() -> None:
        residency, _ = made(site, engine)
        for version in many[:2]:
            await use(residency, version)
        again, cache = made(site, engine, max_bytes=2 * SIZE)
        assert cache.bytes == 2 * SIZE
        await use(again, many[2])
        await settled(lambda: not cache.path(many[0]).exists())
        assert await use(again, many[1]) in ("disk", "bucket")

    run(work)


def test_a_disk_is_not_emptied_for_what_does_not_fit_all_the_same(site: Site) -> None:
    engine = VllmEngine()
    kept, other = versions(site, 2)
    huge = replace(other, files=tuple(replace(file, size=1 << 60) for file in other.files))

    async def work() -> None:
        residency, cache = made(site, engine)
        await use(residency, kept)
        with pytest.raises(DiskFull):
            await use(residency, huge)
        assert cache.holds(kept)
        assert await use(residency, kept) == "engine"

    run(work)


def test_an_adapter_that_the_engine_refuses_hurts_only_itself(site: Site) -> None:
    engine = VllmEngine(refusal="rank 512 is not supported\nTraceback ...")
    bad, good = versions(site, 2)

    async def work() -> None:
        residency, _ = made(site, engine)
        with pytest.raises(EngineRefused, match="rank 512 is not supported") as refused:
            await use(residency, bad)
        assert "Traceback" not in refused.value.message
        assert residency.tier(bad) != "engine"
        engine.refusal = ""
        await use(residency, good)

    run(work)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(order=st.lists(st.integers(0, 5), min_size=5, max_size=40), room=st.integers(1, 4))
def test_whatever_is_asked_for_is_there_while_it_is_held(
    site: Site, order: list[int], room: int
) -> None:
    engine = VllmEngine()
    many = versions(site, 6) if "medical/many-5" not in site.registry.catalog.adapters else [
        site.registry.catalog.adapters[f"medical/many-{n}"].versions[0] for n in range(6)
    ]  # fmt: skip

    async def work() -> None:
        residency, cache = made(site, engine, max_bytes=room * SIZE, max_names=room)

        async def ask(number: int) -> None:
            version = many[number]
            async with residency.hold(version):
                await asyncio.sleep(0.001 * (number % 3))
                held = (cache.path(version) / "adapter_model.safetensors").read_bytes()
                assert held == f"weights {number}".encode()
                assert residency.tier(version) == "engine"

        await asyncio.gather(*(ask(number) for number in order))
        await settled(lambda: cache.bytes <= room * SIZE and residency.names <= room)
        known = {name for name in engine.loads if not name.startswith("-")}
        for name in known:
            balance = engine.loads.count(name) - engine.loads.count(f"-{name}")
            assert balance in (0, 1), "the engine was told twice, or to forget what it never knew"

    run(work)


def test_nothing_is_left_behind_by_a_caller_who_leaves(site: Site) -> None:
    engine = VllmEngine()
    (version,) = versions(site, 1)

    async def work() -> None:
        residency, cache = made(site, engine, max_bytes=1)
        asking = asyncio.create_task(use(residency, version))
        await asyncio.sleep(0)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        assert await use(residency, version) in ("bucket", "disk", "engine")
        await settled(lambda: cache.bytes == 0)

    run(work)


def test_a_load_of_the_engine_is_finished_though_its_caller_leaves(site: Site) -> None:
    engine = VllmEngine(stuck=asyncio.Event())
    (version,) = versions(site, 1)

    async def work() -> None:
        residency, _ = made(site, engine)
        asking = asyncio.create_task(use(residency, version))
        await settled(lambda: engine.most == 1)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        assert engine.stuck is not None
        engine.stuck.set()
        await settled(lambda: residency.tier(version) == "engine")
        assert set(residency.resident) == engine.holds()

    run(work)
