"""Places of the batch: no key fills it, and nobody waits for ever."""

import asyncio
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import BadRequest
from serving.errors import LimitReached
from serving.tiers.shares import BATCHES, TIMES_FREE_ON_GPU, Shares
from tests.unit.test_scheduler import pause

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


def test_on_a_gpu_one_key_alone_gets_seven_eighths_and_the_next_one_enters_at_once() -> None:
    async def work() -> None:
        shares = Shares(PLACES, times_free=TIMES_FREE_ON_GPU)
        end, log = asyncio.Event(), list[str]()
        tasks = [asyncio.create_task(hold(shares, "greedy", 1, end, log)) for _ in range(PLACES)]
        await pause()
        assert len(log) == PLACES * 7 // 8
        tasks.append(asyncio.create_task(hold(shares, "other", 1, end, log)))
        await pause()
        assert log[-1] == "other"
        end.set()
        await asyncio.gather(*tasks)

    asyncio.run(work())


def test_as_a_greedy_keys_answers_end_their_places_go_to_the_key_that_has_fewest() -> None:
    async def work() -> None:
        shares, log = Shares(PLACES, times_free=TIMES_FREE_ON_GPU), list[str]()
        ends = [asyncio.Event() for _ in range(PLACES)]
        tasks = [asyncio.create_task(hold(shares, "greedy", 1, end, log)) for end in ends]
        await pause()
        last = asyncio.Event()
        tasks += [asyncio.create_task(hold(shares, "other", 1, last, log)) for _ in range(6)]
        await pause()
        for end in ends[:6]:
            end.set()
            await pause()
        assert Counter(log)["other"] == 6
        for end in (*ends, last):
            end.set()
        await asyncio.gather(*tasks)
        assert Counter(log) == {"greedy": PLACES, "other": 6}

    asyncio.run(work())


def test_one_key_may_fill_its_share_to_the_last_place() -> None:
    """An eighth of 16 places is for newcomers: of the 8 that others left, one key takes 6."""

    async def work() -> None:
        shares, end, log = Shares(PLACES, most=PLACES), asyncio.Event(), list[str]()
        tasks = [asyncio.create_task(hold(shares, "other", 8, end, log))]
        await pause()
        tasks.append(asyncio.create_task(hold(shares, "seven", 7, end, log)))
        tasks.append(asyncio.create_task(hold(shares, "six", 6, end, log)))
        await pause()
        assert log == ["other", "six"]
        end.set()
        await asyncio.gather(*tasks)
        assert log == ["other", "six", "seven"]

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


def test_batches_hold_what_they_are_bound_to_or_one_request_that_asks_for_more() -> None:
    async def work() -> None:
        shares, log = Shares(PLACES), list[str]()
        shares.bound(BATCHES, 2)
        ends = [asyncio.Event() for _ in range(4)]
        lines = [
            asyncio.create_task(hold(shares, BATCHES, count, end, log))
            for count, end in zip((1, 1, 4, 1), ends, strict=True)
        ]
        await pause()
        assert len(log) == 2
        ends[0].set()
        await pause()
        assert len(log) == 2  # the one with four waits until nothing else runs
        ends[1].set()
        await pause()
        assert len(log) == 3
        async with asyncio.timeout(1), shares.take("key", 4):
            assert len(log) == 3
        ends[2].set()
        ends[3].set()
        await asyncio.gather(*lines)

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


def test_a_caller_that_leaves_at_the_moment_it_is_let_in_gives_its_places_back() -> None:
    async def work() -> None:
        shares, end, log = Shares(PLACES), asyncio.Event(), list[str]()
        async with shares.take("a", 8):
            leaving = asyncio.create_task(hold(shares, "a", 2, end, log))
            await pause()
        assert shares.free == PLACES - 2, "they are its own now, and it has not run yet"
        leaving.cancel()
        await pause()
        assert log == []
        assert shares.free == PLACES

    asyncio.run(work())


def test_behind_others_answers_nobody_waits_longer_than_its_patience() -> None:
    async def work() -> None:
        shares, end, log = Shares(PLACES, patience=0.05), asyncio.Event(), list[str]()
        first = asyncio.create_task(hold(shares, "a", 8, end, log))
        own = asyncio.create_task(hold(shares, "a", 1, end, log))
        await pause()
        with pytest.raises(LimitReached, match="no room for 8"):
            await asyncio.wait_for(hold(shares, "b", 8, end, log), 5)
        assert not own.done(), "it waits for its own key's answers as long as they take"
        end.set()
        await asyncio.gather(first, own)
        async with shares.take("b", 8):
            pass

    asyncio.run(work())


def test_small_requests_do_not_overtake_a_large_one_of_their_own_key() -> None:
    async def work() -> None:
        shares, log = Shares(PLACES), list[str]()
        ends = [asyncio.Event() for _ in range(3)]

        async def ask(name: str, count: int, end: asyncio.Event) -> None:
            async with shares.take("a", count):
                log.append(name)
                await end.wait()

        async with asyncio.TaskGroup() as group:
            for name, count, number in (("small", 5, 0), ("large", 8, 1), ("next", 1, 2)):
                group.create_task(ask(name, count, ends[number]))
                await pause()
            assert log == ["small"]
            for end in ends:
                end.set()
        assert log == ["small", "large", "next"]

    asyncio.run(work())


def test_a_small_engine_serves_as_many_keys_as_it_has_places() -> None:
    async def work() -> None:
        shares = Shares(2)
        async with asyncio.timeout(1), shares.take("a", 1), shares.take("b", 1):
            pass

    asyncio.run(work())


REQUESTS = st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, PLACES // 2)), max_size=30)


@given(REQUESTS, st.randoms())
def test_whatever_arrives_and_leaves_everybody_is_served_and_newcomers_find_a_place(
    requests: list[tuple[str, int]], choose: random.Random
) -> None:
    async def work() -> None:
        shares, running = Shares(PLACES), list[tuple[str, int, asyncio.Event]]()
        served = 0

        async def ask(key: str, count: int) -> None:
            nonlocal served
            end = asyncio.Event()
            async with shares.take(key, count):
                own = sum(n for k, n, _ in running if k == key)
                free = PLACES - sum(n for _, n, _ in running)
                if own or count > 1:
                    assert own + count <= free
                    assert free - count >= PLACES // 8
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
            async with asyncio.timeout(1), shares.take("new", 1):
                pass
            while running:
                choose.choice(running)[2].set()
                await pause()
        assert served == len(requests)

    asyncio.run(work())
