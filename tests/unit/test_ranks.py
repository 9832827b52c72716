"""Data-parallel ranks: each adapter on all, each request on one; the slots and places of all."""

import asyncio
import json
import math
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from registry.model.catalog import Version
from registry.store.blobs import Blobs
from serving.errors import AdapterFaulty, EngineFault, EngineRefused
from serving.gate import Gate
from serving.tiers.batching import RequestBatcher
from serving.tiers.cache import AdapterCache
from serving.tiers.ranks import SPREAD, Rank, Ranks, choose, order
from serving.tiers.residency import Residency
from serving.tiers.scheduler import SlotScheduler
from tests.support.asking import CHAT, into, scope_of, whole
from tests.support.replicas import BASE, Site, Upstream, answered
from tests.support.tiers import run, settled, versions
from tests.support.vllm_engine import LoRARequest, VllmEngine
from tests.support.vllm_ranks import VllmRanks, Worker

PLACES = 64


def slots(ranks: int, each: int = 2) -> Ranks:
    """Ranks with so many slots each."""
    return Ranks([one_rank(each) for _ in range(ranks)], PLACES)


def one_rank(slots: int) -> Rank:
    return Rank(SlotScheduler(slots, 5.0), RequestBatcher(0.0))


def tiers(site: Site, engine: VllmRanks, max_names: int = 100) -> tuple[Residency, Ranks]:
    """Tiers over several ranks."""
    for rank in engine.ranks:
        rank.max_cpu_loras = max_names
    ranks = slots(engine.count)
    residency = Residency(
        AdapterCache(site.folder / "cache", Blobs(site.registry.store)),
        engine.driven(),
        ranks,
        engine.tried(),
        max_bytes=1 << 30,
        max_names=max_names,
    )
    return residency, ranks


def served(site: Site, engine: VllmRanks) -> None:
    """Have the site's replica drive `engine`."""
    site.replica.attach(engine.driven(), engine.tried(), PLACES, on_cpu=False, ranks=engine.count)


def differing(kind: str) -> float:
    found = REGISTRY.get_sample_value("lorary_residency_divergence_total", {"kind": kind})
    assert found is not None
    return found


# Which rank answers.


def test_an_adapter_keeps_to_one_rank_while_that_rank_is_no_busier_than_the_others() -> None:
    ranks = slots(4)
    for number in range(20):
        with ranks.place(f"a/{number}@1", 1) as first:
            pass
        with ranks.place(f"a/{number}@1", 1) as second:
            assert first == second == ranks.home(f"a/{number}@1")


def test_adapters_are_spread_over_the_ranks() -> None:
    homes = Counter(order(f"a/{number}@1", 4)[0] for number in range(400))
    assert sorted(homes) == [0, 1, 2, 3]
    assert min(homes.values()) > 60


def test_a_popular_adapter_is_answered_by_all_ranks() -> None:
    ranks = slots(2, each=8)
    placed = [ranks.place("a/hot@1", 1) for _ in range(60)]
    for place in placed:
        place.__enter__()
    assert sum(ranks.loads) == 60
    assert max(ranks.loads) <= math.ceil(SPREAD * 30)
    for place in placed:
        place.__exit__(None, None, None)
    assert ranks.loads == (0, 0)


def test_requests_for_the_base_model_go_to_the_rank_with_the_least_to_do() -> None:
    ranks = slots(3)
    with ranks.place(None, 4), ranks.place(None, 1), ranks.place(None, 1), ranks.place(None, 1):
        assert sorted(ranks.loads) == [1, 2, 4]


def test_an_adapter_that_would_wait_at_its_own_rank_goes_where_a_slot_is_free() -> None:
    admitting = {0: False, 1: True}
    assert choose([0, 1], [0, 0], 1, PLACES, admitting.__getitem__) == 1
    assert choose([0, 1], [0, 0], 1, PLACES, lambda _: False) == 0
    assert choose([0, 1], [0, 0], 1, PLACES, lambda _: True) == 0


@given(
    loads=st.lists(st.integers(0, 100), min_size=2, max_size=8),
    sequences=st.integers(1, 40),
    data=st.data(),
)
def test_a_rank_beyond_the_bound_is_chosen_only_if_all_are_and_then_the_least_loaded(
    loads: list[int], sequences: int, data: st.DataObject
) -> None:
    ranks = data.draw(st.permutations(range(len(loads))))
    free = data.draw(st.sets(st.sampled_from(range(len(loads)))))
    chosen = choose(ranks, loads, sequences, PLACES, free.__contains__)
    bound = min(PLACES, math.ceil(SPREAD * (sum(loads) + sequences) / len(loads)))
    if any(load + sequences <= bound for load in loads):
        assert loads[chosen] + sequences <= bound
    else:
        assert loads[chosen] == min(loads)


def test_no_rank_gets_more_single_answers_than_its_batch_has_places_while_another_has_any() -> None:
    chance = random.Random(3)
    ranks = Ranks([one_rank(2) for _ in range(4)], 16)
    running: list[Any] = []
    for _ in range(3000):
        if running and (len(running) == 64 or chance.random() < 0.45):
            running.pop(chance.randrange(len(running))).__exit__(None, None, None)
        else:
            name = None if chance.random() < 0.2 else f"a/{chance.randrange(9)}@1"
            running.append(ranks.place(name, 1))
            running[-1].__enter__()
        assert max(ranks.loads) <= 16


def test_on_eight_ranks_half_as_many_adapters_share_a_batch_at_little_uneven_load() -> None:
    """The cost of a batch depends on that number. 64 requests a rank; adapters by Zipf's law."""

    def measured(adapters: int, *, hashing: bool) -> tuple[float, float]:
        """Different adapters in a rank's batch, and the highest load by the mean, on average."""
        chance, ranks = random.Random(1), Ranks([one_rank(32) for _ in range(8)], 256)
        weights = [1 / (number + 1) for number in range(adapters)]
        running: list[tuple[Any, str, int]] = []
        batches: list[Counter[str]] = [Counter() for _ in range(8)]
        found: list[tuple[float, float]] = []
        for number in chance.choices(range(adapters), weights, k=6000):
            if len(running) == 8 * 64:
                ended, name, rank = running.pop(chance.randrange(len(running)))
                ended.__exit__(None, None, None)
                batches[rank][name] -= 1
                uneven = max(ranks.loads) / (sum(ranks.loads) / 8)
                found.append((sum(len(+batch) for batch in batches) / 8, uneven))
            name = f"a/{number}@1"
            place = ranks.place(name if hashing else None, 1)
            rank = place.__enter__()
            batches[rank][name] += 1
            running.append((place, name, rank))
        together, uneven = np.mean(found, axis=0)
        return float(together), float(uneven)

    together, uneven = measured(64, hashing=True)
    apart, _ = measured(64, hashing=False)
    assert together < 0.55 * apart
    assert uneven < 1.15


# Slots and places of all ranks.


def test_as_many_adapters_run_at_once_as_all_ranks_have_slots(site: Site) -> None:
    """Slots were once counted for the whole process: of four adapters two would have waited."""
    engine = VllmRanks(2)
    many = versions(site, 4)

    async def work() -> None:
        residency, ranks = tiers(site, engine)
        running, end = list[int](), asyncio.Event()

        async def one(version: Version) -> None:
            with ranks.place(str(version.ref), 1) as rank:
                async with residency.hold(version, rank):
                    running.append(rank)
                    await end.wait()

        tasks = [asyncio.create_task(one(version)) for version in many]
        await settled(lambda: len(running) == 4)
        assert Counter(running) == {0: 2, 1: 2}
        assert ranks.waiting == 0
        end.set()
        await asyncio.gather(*tasks)

    run(work)


def test_a_request_whose_rank_vllm_chooses_has_a_slot_on_each() -> None:
    async def work() -> None:
        ranks = slots(2, each=1)
        async with ranks.take("a@1"):
            for rank in (0, 1):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02), ranks.take("b@1", rank):
                        raise AssertionError("its slot is taken")
        for rank in (0, 1):
            async with ranks.take("b@1", rank):
                pass

    asyncio.run(work())


def test_requests_that_need_a_slot_on_each_rank_never_wait_for_each_other() -> None:
    async def work() -> None:
        ranks = slots(2, each=1)

        async def one(name: str) -> None:
            async with ranks.take(name):
                await asyncio.sleep(0)

        async with asyncio.timeout(5):
            await asyncio.gather(*[one(f"a/{number}@1") for number in range(20)])

    asyncio.run(work())


def test_places_are_those_of_all_ranks_and_one_request_fits_into_one(site: Site) -> None:
    served(site, VllmRanks(4))
    assert site.replica.shares.most == PLACES // 2

    async def work() -> None:
        shares = site.replica.shares
        async with (
            shares.take("a", 32),
            shares.take("a", 32),
            shares.take("a", 32) as before,
            asyncio.timeout(5),
            shares.take("a", 32) as held,
        ):
            assert (before, held) == (96, 128), "one key alone gets half of all places"

    run(work)


# Every adapter on every rank.


@pytest.fixture
def agreeing() -> Iterator[None]:
    """Nothing differs while the test runs."""
    before = differing("missing"), differing("unexpected")
    yield
    assert (differing("missing"), differing("unexpected")) == before


@pytest.mark.usefixtures("agreeing")
def test_no_rank_reads_files_in_the_middle_of_a_step(site: Site) -> None:
    engine = VllmRanks(2)
    many = versions(site, 9)

    async def work() -> None:
        residency, ranks = tiers(site, engine, max_names=4)
        chance = random.Random(5)

        async def one() -> None:
            version = chance.choice(many)
            with ranks.place(str(version.ref), 1) as rank:
                async with residency.hold(version, rank):
                    engine.ranks[rank].step(str(version.ref))
                    await asyncio.sleep(0.001)
                    engine.ranks[rank].step(str(version.ref))

        for _ in range(20):
            await asyncio.gather(*[one() for _ in range(8)])
            await residency.reconcile()

    run(work)
    first, second = engine.ranks
    assert first.holds() == second.holds()
    for rank in engine.ranks:
        assert (rank.reread, rank.evicted) == ([], [])
        assert rank.most <= 4


def test_an_adapter_that_one_rank_cannot_load_stays_on_none() -> None:
    engine = VllmRanks(2)

    async def work() -> None:
        driven = engine.driven()
        await driven.load("a@1", Path("/a"))
        engine.ranks[1].refusal = "no memory is left"
        engine.ranks[1].load_seconds = 0.01
        with pytest.raises(EngineRefused, match="no memory is left"):
            await driven.load("b@1", Path("/b"))
        engine.ranks[1].refusal = ""
        assert [rank.holds() for rank in engine.ranks] == [{"a@1"}, {"a@1"}]
        assert driven.names == set(engine.lora_requests) == {"a@1"}
        assert await driven.reconcile() == set()

    run(work)


def test_what_any_rank_lost_or_should_not_hold_is_found_and_counted() -> None:
    """vLLM lists the first rank's adapters only."""
    engine = VllmRanks(3)

    async def work() -> None:
        driven = engine.driven()
        for name in ("a@1", "b@1", "c@1", "d@1"):
            await driven.load(name, Path("/x"))
        ids = {name: request.lora_int_id for name, request in engine.lora_requests.items()}
        engine.ranks[0].host.pop(ids["a@1"])
        engine.ranks[1].host.pop(ids["b@1"])
        engine.ranks[2].host.pop(ids["c@1"])
        engine.ranks[2].host[99] = LoRARequest("stranger", 99, "/y")
        engine.ranks[1].host[98] = LoRARequest("other stranger", 98, "/y")
        missing, unexpected = differing("missing"), differing("unexpected")
        assert await driven.reconcile() == {"a@1", "b@1", "c@1"}
        assert differing("missing") - missing == 3
        assert differing("unexpected") - unexpected == 2
        for name in ("a@1", "b@1", "c@1"):
            await driven.reload(name)
        assert await driven.reconcile() == set()
        for rank in engine.ranks:
            assert rank.holds() == {"a@1", "b@1", "c@1", "d@1"}

    run(work)


def test_a_rank_that_does_not_answer_is_no_agreement() -> None:
    engine = VllmRanks(2)

    async def broken(method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        raise RuntimeError("the second rank is gone")

    async def work() -> None:
        driven = engine.driven()
        engine.collective_rpc = broken  # type: ignore[method-assign]
        with pytest.raises(EngineRefused, match="second rank is gone"):
            await driven.reconcile()

    run(work)


def test_of_a_ranks_workers_only_the_last_one_tells_a_difference() -> None:
    """vLLM leaves the answers behind the first error unread, and takes them for its next call's."""
    worker = Worker(VllmEngine())
    worker.parallel_config = SimpleNamespace(world_size=2)
    worker.lorary_compare_adapters([1], [1])
    worker.rank = 1
    with pytest.raises(RuntimeError, match=r"lacks \[1\]"):
        worker.lorary_compare_adapters([1], [1])


# Trials and repair.


def test_a_version_is_tried_on_the_rank_where_it_has_a_slot(site: Site) -> None:
    engine = VllmRanks(2)
    (version,) = versions(site, 1)

    async def work() -> None:
        residency, _ = tiers(site, engine)
        async with residency.hold(version, 1):
            pass

    run(work)
    assert engine.asked == [(1, None), (1, str(version.ref))]


def test_a_faulty_version_is_found_on_any_rank_and_all_are_erased(site: Site) -> None:
    engine = VllmRanks(2)
    (version,) = versions(site, 1)
    for rank in engine.ranks:
        rank.overflowing.add(str(version.ref))

    async def work() -> None:
        residency, _ = tiers(site, engine)
        with pytest.raises(AdapterFaulty):
            async with residency.hold(version, 1):
                pass

    run(work)
    for rank in engine.ranks:
        assert rank.calls[:3] == ["pause", "erase", "resume"]
        assert not rank.cache.poisoned


def test_an_engine_is_clean_only_when_the_base_model_is_sound_on_every_rank() -> None:
    engine = VllmRanks(2)

    async def work() -> None:
        recovery = engine.tried().recovery
        await recovery.clean()
        assert {rank for rank, _ in engine.asked} == {0, 1}
        engine.ranks[1].base_overflows = True
        with pytest.raises(EngineFault):
            await recovery.clean()
        assert engine.given_up == 1

    run(work)


def test_ranks_of_which_one_cannot_be_erased_are_given_up() -> None:
    engine = VllmRanks(2)
    engine.ranks[1].broken_rpc = True

    async def work() -> None:
        with pytest.raises(EngineFault):
            await engine.tried().recovery.clean()

    run(work)
    assert engine.given_up == 1


# What vLLM is told.


def header_of(upstream: Upstream) -> str | None:
    headers = dict(upstream.scopes[-1]["headers"])
    found = headers.get(b"x-data-parallel-rank")
    return None if found is None else str(found.decode())


def ask(site: Site, upstream: Upstream, path: str, body: dict[str, Any], **extra: str) -> int:
    sent: list[Any] = []
    scope = scope_of("POST", path, site.medical, **extra)
    asyncio.run(Gate(upstream, site.replica)(scope, whole(json.dumps(body).encode()), into(sent)))
    return answered(sent)[0]


def test_vllm_gets_the_rank_that_was_chosen_here_whatever_the_caller_says(
    site: Site, upstream: Upstream
) -> None:
    served(site, VllmRanks(2))
    home = site.replica.ranks.home("medical/coder@1")
    wrong = str(1 - home)
    chat = {"model": "medical", "messages": []}
    assert ask(site, upstream, CHAT, chat, X_Data_Parallel_Rank=wrong) == 200
    assert header_of(upstream) == str(home)
    text = {"model": "medical", "prompt": "x"}
    assert ask(site, upstream, "/v1/completions", text, X_Data_Parallel_Rank=wrong) == 200
    assert header_of(upstream) == str(home)
    assert ask(site, upstream, CHAT, chat | {"model": BASE}) == 200
    assert header_of(upstream) == "0"
    assert site.replica.ranks.loads == (0, 0)


def test_where_vllm_chooses_the_rank_it_gets_none(site: Site, upstream: Upstream) -> None:
    served(site, VllmRanks(2))
    asked = {"model": "medical", "input": "x", "store": False}
    ask(site, upstream, "/v1/responses", asked, X_Data_Parallel_Rank="1")
    assert upstream.scopes
    assert header_of(upstream) is None
    assert site.replica.ranks.loads == (0, 0)
