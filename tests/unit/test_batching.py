"""Requests enter the engine in groups, and none waits longer than it may."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.tiers.batching import STEP_SHARE, RequestBatcher
from tests.support.virtual_time import run_virtually

PATIENCE = 0.25


def now() -> float:
    return asyncio.get_running_loop().time()


def batcher(patience: float = PATIENCE) -> RequestBatcher:
    return RequestBatcher(patience, clock=now)


async def request(batcher: RequestBatcher, seconds: float = 60.0) -> float:
    """Run for so long; when it entered."""
    async with batcher.enter():
        entered = now()
        await asyncio.sleep(seconds)
        return entered


async def running(batcher: RequestBatcher, count: int) -> "list[asyncio.Task[float]]":
    """So many requests that run for a minute."""
    tasks = [asyncio.create_task(request(batcher)) for _ in range(count)]
    await asyncio.sleep(2 * PATIENCE)
    return tasks


def test_a_request_that_finds_no_other_running_does_not_wait() -> None:
    async def work() -> None:
        many = batcher()
        for _ in range(3):
            before = now()
            assert await request(many, 1.0) == before

    run_virtually(work())


def test_on_a_cpu_no_request_waits() -> None:
    async def work() -> None:
        none = batcher(0.0)
        tasks = [asyncio.create_task(request(none, 1.0)) for _ in range(50)]
        assert set(await asyncio.gather(*tasks)) == {0.0}

    run_virtually(work())


def test_requests_that_come_one_by_one_enter_together() -> None:
    async def work() -> None:
        many = batcher()
        await running(many, 40)
        began, coming = now(), []
        for _ in range(6):
            coming.append(asyncio.create_task(request(many, 1.0)))
            await asyncio.sleep(0.02)
        [entered] = set(await asyncio.gather(*coming))
        assert 0.1 < entered - began <= PATIENCE

    run_virtually(work())


@pytest.mark.parametrize("others", [1, 5, 9])
def test_a_request_waits_no_longer_than_its_step_would_delay_the_others(others: int) -> None:
    async def work() -> None:
        many = batcher()
        await running(many, others)
        began = now()
        waited = await request(many, 1.0) - began
        assert waited == pytest.approx(others * STEP_SHARE * PATIENCE)

    run_virtually(work())


def test_however_many_run_a_request_waits_no_longer_than_the_bound() -> None:
    async def work() -> None:
        many = batcher()
        await running(many, 40)
        began = now()
        assert await request(many, 1.0) - began == pytest.approx(PATIENCE)

    run_virtually(work())


def test_requests_enter_at_once_when_the_last_that_ran_has_ended() -> None:
    async def work() -> None:
        many = batcher()
        first = asyncio.create_task(request(many, 0.01))
        await asyncio.sleep(0)
        second = asyncio.create_task(request(many, 1.0))
        await first
        assert await second == pytest.approx(0.01)

    run_virtually(work())


@settings(deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.floats(0, 2), st.floats(0.01, 3), st.one_of(st.none(), st.floats(0, 0.5))),
        max_size=40,
    )
)
def test_whatever_comes_and_leaves_nobody_waits_longer_than_the_bound(
    requests: list[tuple[float, float, float | None]],
) -> None:
    """Each comes at a time, runs for so long, and may leave some time after it came."""

    async def work() -> None:
        many = batcher()
        waits = []

        async def caller(comes: float, runs: float, leaves: float | None) -> None:
            await asyncio.sleep(comes)
            came = now()
            try:
                async with asyncio.timeout(leaves):
                    async with many.enter():
                        waits.append(now() - came)
                        await asyncio.sleep(runs)
            except TimeoutError:
                pass

        await asyncio.gather(*(caller(*each) for each in requests))
        assert all(wait <= PATIENCE + 1e-6 for wait in waits)
        before = now()
        assert await request(many, 0.0) == before, "nothing is left behind"

    run_virtually(work())
