"""What a replica believes the engine to hold is what the engine holds, and stays so."""

import asyncio
import random
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from registry.model.aliases import MoveAlias
from registry.model.catalog import Version
from registry.model.domains import ChangePolicy
from registry.model.policies import Policy
from serving.tiers.residency import Residency, reconcile_regularly
from serving.tiers.warming import Warming
from tests.support.replicas import BASE, Site
from tests.support.tiers import SIZE, made, run, settled, versions
from tests.support.vllm_engine import LoRARequest, VllmEngine

PLACES = 8


async def ask(residency: Residency, engine: VllmEngine, version: Version) -> str:
    """One request that takes part in a step; the tier that it found its version in."""
    async with residency.hold(version) as tier:
        engine.step(str(version.ref))
    return tier


def differing(kind: str) -> float:
    found = REGISTRY.get_sample_value("lorary_residency_divergence_total", {"kind": kind})
    assert found is not None
    return found


@pytest.fixture
def agreeing() -> Iterator[None]:
    """Nothing differs while the test runs."""
    before = differing("missing"), differing("unexpected")
    yield
    assert (differing("missing"), differing("unexpected")) == before


@pytest.mark.usefixtures("agreeing")
def test_what_is_reported_in_the_engine_is_not_read_again_in_a_step(site: Site) -> None:
    """Warming a resident version once renewed its place here, but not in the engine: the engine
    evicted it, and ten requests that found it `engine` had it read again, unverified."""
    engine = VllmEngine()
    warmed, other, third = versions(site, 3)

    async def work() -> None:
        residency, _ = made(site, engine, max_names=2)
        await ask(residency, engine, warmed)
        await ask(residency, engine, other)
        await residency.warm(warmed)
        await ask(residency, engine, third)
        tiers = [await ask(residency, engine, other) for _ in range(10)]
        assert tiers == ["engine"] * 10, "warming is no use, so the other one was used later"
        await residency.reconcile()
        assert engine.holds() == {str(other.ref), str(third.ref)}

    run(work)
    assert (engine.reread, engine.evicted) == ([], [])


@pytest.mark.usefixtures("agreeing")
def test_any_mixture_of_requests_hints_and_warming_leaves_the_engine_nothing_to_evict(
    site: Site,
) -> None:
    engine = VllmEngine()
    many = versions(site, 9)

    async def work() -> None:
        residency, cache = made(site, engine, max_names=4, max_bytes=6 * SIZE)
        reconciling = asyncio.create_task(reconcile_regularly(residency, 0.001))
        chance = random.Random(7)

        async def one() -> None:
            version = chance.choice(many)
            match chance.randrange(6):
                case 0:
                    await residency.warm(version, replaces=chance.choice(many))
                case 1:
                    await residency.prefetch(version)
                case _:
                    async with residency.hold(version):
                        engine.step(str(version.ref))
                        await asyncio.sleep(0.001)
                        engine.step(str(version.ref))

        for _ in range(20):
            await asyncio.gather(*(one() for _ in range(8)))
        await settled(lambda: cache.bytes <= 6 * SIZE)
        reconciling.cancel()
        await residency.reconcile()
        assert len(engine.host) == residency.names <= 4

    run(work)
    assert (engine.reread, engine.evicted) == ([], [])


@pytest.mark.parametrize(("running", "filled_again"), [("abc", "abc"), ("bc", "")])
def test_a_load_while_every_slot_runs_costs_the_engine_all_of_them(
    running: str, filled_again: str
) -> None:
    """Why a load waits for its request's slot: in vLLM it takes the slot used least recently, the
    next step fills that one again in place of the next one, and so on."""
    engine = VllmEngine(max_loras=3)

    async def work() -> None:
        for number, name in enumerate("abcd"):
            if name == "d":
                engine.step("a", "b", "c")
                engine.step(*running)
                engine.filled.clear()
            request = LoRARequest(name, number, "/")
            engine.lora_requests[name] = request
            await engine.add_lora(request)
        engine.step(*running)

    run(work)
    assert engine.filled == ["d", *filled_again]


def test_an_adapter_that_the_engine_lost_is_forgotten_and_verified_before_it_is_read_again(
    site: Site,
) -> None:
    engine = VllmEngine()
    (version,) = versions(site, 1)

    async def work() -> None:
        residency, cache = made(site, engine)
        await ask(residency, engine, version)
        engine.host.clear()
        (cache.path(version) / "adapter_model.safetensors").write_bytes(b"damaged")
        before = differing("missing")
        await residency.reconcile()
        assert differing("missing") == before + 1
        assert residency.tier(version) == "disk"
        assert await ask(residency, engine, version) == "disk"
        assert (cache.path(version) / "adapter_model.safetensors").read_bytes() == b"weights 0"

    run(work)
    assert engine.reread == []


def test_an_adapter_that_the_engine_lost_while_a_request_holds_it_is_loaded_again_at_once(
    site: Site,
) -> None:
    engine = VllmEngine()
    (version,) = versions(site, 1)

    async def work() -> None:
        residency, cache = made(site, engine)
        async with residency.hold(version):
            engine.host.clear()
            (cache.path(version) / "adapter_model.safetensors").write_bytes(b"damaged")
            await residency.reconcile()
            assert (cache.path(version) / "adapter_model.safetensors").read_bytes() == b"weights 0"
            engine.step(str(version.ref))

    run(work)
    assert engine.reread == []


def test_an_adapter_that_nobody_put_into_the_engine_is_removed(site: Site) -> None:
    engine = VllmEngine()
    (version,) = versions(site, 1)

    async def work() -> None:
        residency, _ = made(site, engine)
        await ask(residency, engine, version)
        await engine.add_lora(LoRARequest("stray", 99, "/nowhere"))
        before = differing("unexpected")
        await residency.reconcile()
        assert differing("unexpected") == before + 1
        assert engine.holds() == {str(version.ref)}
        assert await ask(residency, engine, version) == "engine"

    run(work)


def test_a_removal_that_failed_costs_no_place_for_good(site: Site) -> None:
    class Failing(VllmEngine):
        failing = False

        async def remove_lora(self, lora_id: int) -> bool:
            if self.failing:
                raise RuntimeError("not now")
            return await super().remove_lora(lora_id)

    engine = Failing()
    first, second = versions(site, 2)

    async def work() -> None:
        residency, _ = made(site, engine, max_names=1, max_bytes=1)
        engine.failing = True
        await ask(residency, engine, first)
        await settled(lambda: residency.tier(first) != "engine")
        assert residency.names == 1, "it is there still"
        engine.failing = False
        await residency.reconcile()
        await ask(residency, engine, second)

    run(work)
    assert engine.evicted == []


def test_warming_takes_no_place_of_a_busier_adapter(site: Site) -> None:
    engine = VllmEngine()
    busy, idle, fresh, later = versions(site, 4)

    async def work() -> None:
        residency, cache = made(site, engine, max_names=2)
        await ask(residency, engine, idle)
        await ask(residency, engine, busy)
        assert not await residency.warm(fresh)
        assert engine.holds() == {str(busy.ref), str(idle.ref)}
        assert cache.holds(fresh), "its first request waits for no download"
        assert await residency.warm(fresh, replaces=busy), "it will be as busy as that one"
        assert engine.holds() == {str(busy.ref), str(fresh.ref)}
        await residency.warm(later, replaces=idle)
        assert engine.holds() == {str(busy.ref), str(fresh.ref)}, "that one is not here any more"

    run(work)


def test_what_was_only_warmed_makes_room_first_in_the_engine_and_on_the_disk(site: Site) -> None:
    engine = VllmEngine()
    asked, warmed, wanted = versions(site, 3)

    async def work() -> None:
        residency, cache = made(site, engine, max_names=2, max_bytes=2 * SIZE)
        await ask(residency, engine, asked)
        assert await residency.warm(warmed)
        await ask(residency, engine, wanted)
        await settled(lambda: cache.bytes <= 2 * SIZE)
        assert (residency.tier(asked), residency.tier(wanted)) == ("engine", "engine")
        assert residency.tier(warmed) == "bucket"

    run(work)


@pytest.mark.parametrize("commits", ["feedback", "promotions"])
def test_six_hot_adapters_in_eight_places_stay_there_however_often_the_log_grows(
    site: Site, commits: str
) -> None:
    """One commit in three requests; sixteen other adapters have guarded aliases that moved later.
    Each of them was once warmed again at every commit, and 12 % of these requests were hits."""
    engine = VllmEngine()
    many = versions(site, 22)
    hot = many[:6]
    operator = site.operator.id
    site.registry.execute(
        ChangePolicy("medical", Policy(guarded=("production",), approvals=0), weaken=True), operator
    )
    second = [f"many-{number}" for number in range(6, 22)]
    for name in second:
        site.publish("medical", name, f"second {name}".encode())
    chance = random.Random(1)

    async def work() -> None:
        residency, _ = made(site, engine, max_names=PLACES)
        warming = Warming(residency, BASE, most=PLACES)
        await warming.bring_up(site.registry.catalog)
        for version in hot:
            await ask(residency, engine, version)
        hits = 0
        for number in range(300):
            if number % 3 == 0:
                if commits == "promotions":
                    name = chance.choice(second)
                    aliases = site.registry.catalog.adapters[f"medical/{name}"].aliases
                    other = 3 - aliases["production"]
                    site.registry.execute(MoveAlias("medical", name, "production", other), operator)
                await warming.bring_up(site.registry.catalog)
            hits += await ask(residency, engine, chance.choice(hot)) == "engine"
        assert hits >= 0.95 * 300

    run(work)
    assert (engine.reread, engine.evicted) == ([], [])
