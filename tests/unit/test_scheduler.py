"""The engine's slots: never more adapters than slots, and nobody waits for ever."""

import asyncio
import contextlib
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.tiers.scheduler import SlotScheduler
from tests.support.instants import Instants

TURN, LONGEST = 3, 2


async def hold(turns: SlotScheduler, adapter: str, until: asyncio.Event) -> None:
    async with turns.take(adapter):
        await until.wait()


async def pause() -> None:
    """Let every task run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_nobody_waits_while_a_slot_is_free() -> None:
    async def work() -> None:
        turns = SlotScheduler(2, TURN)
        async with turns.take("a"), turns.take("b"), turns.take("a"):
            assert turns.waiting == 0

    asyncio.run(work())


def test_one_adapter_too_many_waits_until_a_slot_is_given_back() -> None:
    async def work() -> None:
        turns, end = SlotScheduler(1, TURN), asyncio.Event()
        first = asyncio.create_task(hold(turns, "a", end))
        await pause()
        second = asyncio.create_task(hold(turns, "b", end))
        await pause()
        assert turns.waiting == 1
        end.set()
        await asyncio.gather(first, second)
        assert turns.waiting == 0

    asyncio.run(work())


def test_an_adapter_with_endless_requests_cannot_keep_its_slot() -> None:
    async def work() -> None:
        clock = Instants()
        turns = SlotScheduler(1, TURN, clock=clock)
        ends = [asyncio.Event() for _ in range(4)]
        served = []

        async def ask(adapter: str, number: int) -> None:
            async with turns.take(adapter):
                served.append(adapter)
                await ends[number].wait()

        async with asyncio.TaskGroup() as group:
            group.create_task(ask("hot", 0))
            await pause()
            group.create_task(ask("cold", 1))
            await pause()
            group.create_task(ask("hot", 2))  # its turn is not over: it may go on
            await pause()
            assert served == ["hot", "hot"]
            clock.now += TURN
            group.create_task(ask("hot", 3))  # now it is: this one queues behind the other
            await pause()
            assert served == ["hot", "hot"]
            for end in ends:
                end.set()
        assert served == ["hot", "hot", "cold", "hot"]

    asyncio.run(work())


def test_an_adapter_that_waited_has_a_whole_turn_too() -> None:
    async def work() -> None:
        clock = Instants()
        turns = SlotScheduler(1, TURN, clock=clock)
        ends = {name: asyncio.Event() for name in ("hot", "cold", "third", "cold again")}
        served = []

        async def ask(adapter: str, name: str) -> None:
            async with turns.take(adapter):
                served.append(name)
                await ends[name].wait()

        async with asyncio.TaskGroup() as group:
            group.create_task(ask("hot", "hot"))
            await pause()
            clock.now += 10 * TURN
            group.create_task(ask("cold", "cold"))
            await pause()
            ends["hot"].set()
            await pause()
            group.create_task(ask("third", "third"))
            clock.now += TURN / 2
            await pause()
            group.create_task(ask("cold", "cold again"))
            await pause()
            assert served == ["hot", "cold", "cold again"], "half of its turn is left"
            for end in ends.values():
                end.set()
        assert served[-1] == "third"

    asyncio.run(work())


def test_who_leaves_the_queue_takes_no_slot() -> None:
    async def work() -> None:
        turns, end = SlotScheduler(1, TURN), asyncio.Event()
        first = asyncio.create_task(hold(turns, "a", end))
        await pause()
        leaving = asyncio.create_task(hold(turns, "b", end))
        await pause()
        leaving.cancel()
        end.set()
        await asyncio.gather(first, leaving, return_exceptions=True)
        async with turns.take("c"):
            assert turns.waiting == 0

    asyncio.run(work())


def test_who_leaves_at_the_moment_it_is_let_in_gives_the_slot_back() -> None:
    async def work() -> None:
        turns, never = SlotScheduler(1, TURN), asyncio.Event()
        async with turns.take("a"):
            leaving = asyncio.create_task(hold(turns, "b", never))
            await pause()
        assert turns.waiting == 0, "the slot is b's now, and b has not run yet"
        leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaving
        async with asyncio.timeout(1), turns.take("c"):
            pass

    asyncio.run(work())


def test_nobody_depends_for_ever_on_others_reading_their_answers() -> None:
    async def work() -> None:
        turns, never = SlotScheduler(1, TURN, patience=0.05), asyncio.Event()
        slow = asyncio.create_task(hold(turns, "slow", never))
        await pause()
        async with asyncio.timeout(5), turns.take("other"):
            assert not slow.done()
        async with asyncio.timeout(5), turns.take("slow"):
            pass
        never.set()
        await slow

    asyncio.run(work())


Request = tuple[int, int, int]
"""When it arrives, its adapter, how long it runs: whole seconds."""
requests = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 5), st.integers(1, LONGEST)), max_size=40
)


@settings(deadline=None)
@given(requests=requests, slots=st.integers(1, 4))
def test_whatever_arrives_slots_hold_and_the_wait_is_bounded(
    requests: list[Request], slots: int
) -> None:
    async def work() -> None:
        clock = Instants()
        turns = SlotScheduler(slots, TURN, clock=clock)
        running, waits = Counter[int](), list[tuple[float, int]]()
        waiting = Counter[int]()

        async def ask(adapter: int, seconds: int) -> None:
            arrived = clock.now
            ahead = sum(1 for other in +waiting if other != adapter)
            waiting[adapter] += 1
            async with turns.take(str(adapter)):
                waiting[adapter] -= 1
                waits.append((clock.now - arrived, ahead))
                running[adapter] += 1
                assert sum(count > 0 for count in running.values()) <= slots
                await clock.sleep(seconds)
                running[adapter] -= 1

        tasks = []
        for second in range(500):
            clock.advance_to(second)
            tasks += [
                asyncio.create_task(ask(adapter, seconds))
                for arrival, adapter, seconds in requests
                if arrival == second
            ]
            await pause()
            if second > 12 and all(task.done() for task in tasks):
                break
        await asyncio.gather(*tasks)
        assert len(waits) == len(requests)
        assert all(wait <= (ahead + 1) * (TURN + LONGEST) for wait, ahead in waits)
        assert turns.waiting == 0

    asyncio.run(work())
