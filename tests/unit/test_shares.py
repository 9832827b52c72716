"""Places of the batch: no key fills it, and nobody waits for ever."""

import asyncio
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import BadRequest
from serving.tiers.shares import Shares
from tests.unit.test_turns import pause

PLACES = 16


async def hold(shares: Shares, key: str, count: int, until: asyncio.Event, log: list[str]) -> None:
    async with shares.take(key, count):
        log.append(key)
        await until.wait()


def test_one_key_gets_half_of_an_idle_engine_and_the_next_one_enters_at_once() -> None:
    async def work() -> None:
        shares, end, log = Shares(PLACES), asyncio.Event(), list[str]()
        tasks = [asyncio.create_task(hold(shares, "greedy", 4, end, log)) for _ in range(9)]
        await pause()
        assert log == ["greedy"] * 2
        tasks.append(asyncio.create_task(hold(shares, "other", 2, end, log)))
        await pause()
        assert log == ["greedy", "greedy", "other"]
        end.set()
        await asyncio.gather(*tasks)
        assert Counter(log) == {"greedy": 9, "other": 1}

    asyncio.run(work())


def test_the_priority_is_how_much_the_key_has_in_the_engine() -> None:
    async def work() -> None:
        shares = Shares(PLACES)
        async with (
            shares.take("a", 3) as first,
            shares.take("a", 2) as second,
            shares.take("b", 1) as other,
        ):
            assert (first, second, other) == (3, 5, 1)

    asyncio.run(work())


def test_more_than_a_key_may_ever_have_is_refused() -> None:
    async def work() -> None:
        with pytest.raises(BadRequest, match="takes 8 in one request"):
            async with Shares(PLACES).take("a", 9):
                pass

    asyncio.run(work())


def test_a_caller_that_leaves_its_line_gives_nothing_back_that_it_had_not() -> None:
    async def work() -> None:
        shares, end, log = Shares(PLACES), asyncio.Event(), list[str]()
        first = asyncio.create_task(hold(shares, "a", 8, end, log))
        await pause()
        leaving = asyncio.create_task(hold(shares, "a", 1, end, log))
        await pause()
        leaving.cancel()
        await pause()
        async with asyncio.timeout(1), shares.take("b", 4):
            assert log == ["a"]
        end.set()
        await first
        async with shares.take("a", 8) as held:
            assert held == 8

    asyncio.run(work())


def test_a_key_with_nothing_in_the_engine_waits_no_longer_than_its_patience() -> None:
    async def work() -> None:
        shares, end, log = Shares(PLACES, patience=0.01), asyncio.Event(), list[str]()
        tasks = [
            asyncio.create_task(hold(shares, key, 4, end, log)) for key in ("a", "a", "b", "c")
        ]
        await asyncio.sleep(0.1)
        assert sorted(log) == ["a", "a", "b", "c"]
        late = asyncio.create_task(hold(shares, "a", 1, end, log))
        await asyncio.sleep(0.05)
        assert log[-1] != "a", "a key that has places waits for its own to end"
        end.set()
        await asyncio.gather(*tasks, late)

    asyncio.run(work())


REQUESTS = st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, PLACES // 2)), max_size=30)


@given(REQUESTS, st.randoms())
def test_whatever_arrives_and_leaves_a_key_never_takes_more_than_it_leaves(
    requests: list[tuple[str, int]], choose: random.Random
) -> None:
    async def work() -> None:
        shares, running = Shares(PLACES), list[tuple[str, int, asyncio.Event]]()
        served = 0

        async def ask(key: str, count: int) -> None:
            nonlocal served
            end = asyncio.Event()
            before = sum(n for _, n, _ in running)
            async with shares.take(key, count):
                own = sum(n for k, n, _ in running if k == key)
                taken = sum(n for _, n, _ in running)
                assert taken == 0 or own + count <= PLACES - taken - count, (before, running)
                running.append((key, count, end))
                await end.wait()
                running.remove((key, count, end))
            served += 1

        async with asyncio.TaskGroup() as group:
            for key, count in requests:
                group.create_task(ask(key, count))
                await pause()
                if running and choose.random() < 0.3:
                    choose.choice(running)[2].set()
                    await pause()
            while running:
                choose.choice(running)[2].set()
                await pause()
        assert served == len(requests)

    asyncio.run(work())
