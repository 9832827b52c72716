"""What one key and one adapter may take, and when they are told to come again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import LimitReached
from serving.request.limits import Bounds, Limits
from serving.settings import ServingSettings


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_key_sends_a_minutes_requests_at_once_and_then_waits_its_turn() -> None:
    clock = Clock()
    limits = Limits(Bounds(key_requests=60), clock=clock)
    for _ in range(60):
        with limits.admit("key", "a"):
            pass
    with pytest.raises(LimitReached) as refused, limits.admit("key", "a"):
        pass
    assert refused.value.retry_after == pytest.approx(1.0)
    with limits.admit("another key", "a"):
        pass
    clock.now += 1.01
    with limits.admit("key", "a"):
        pass


def test_tokens_are_paid_when_they_are_known() -> None:
    clock = Clock()
    limits = Limits(Bounds(key_tokens=600), clock=clock)
    with limits.admit("key", "a") as grant:
        grant.tokens = 900
    with pytest.raises(LimitReached) as refused, limits.admit("key", "a"):
        pass
    assert refused.value.retry_after == pytest.approx(30.0)
    clock.now += 30.1
    with limits.admit("key", "a"):
        pass


def test_one_hot_adapter_leaves_room_for_the_others() -> None:
    limits = Limits(Bounds(adapter_concurrency=2, concurrency=4))
    with limits.admit("k", "hot"), limits.admit("k", "hot"):
        with pytest.raises(LimitReached, match="hot"), limits.admit("k", "hot"):
            pass
        with (
            limits.admit("k", "cold"),
            limits.admit("k", "colder"),
            pytest.raises(LimitReached),
            limits.admit("k", "coldest"),
        ):
            pass
    with limits.admit("k", "hot"):
        pass


def test_replicas_divide_what_a_key_may_take() -> None:
    settings = ServingSettings(
        key_requests_per_minute=90, key_concurrency=2, concurrency=7, replicas=3
    )
    bounds = settings.bounds
    assert (bounds.key_requests, bounds.key_concurrency, bounds.concurrency) == (30, 1, 7)


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 5)), max_size=60),
    st.integers(1, 120),
)
def test_no_key_ever_gets_more_than_a_minutes_worth_and_its_share_of_time(
    steps: list[tuple[float, int]], limit: int
) -> None:
    clock = Clock()
    limits = Limits(Bounds(key_requests=limit), clock=clock)
    let_in = 0
    for pause, tries in steps:
        clock.now += pause
        for _ in range(tries):
            try:
                with limits.admit("key", "a"):
                    let_in += 1
            except LimitReached:
                continue
        assert let_in <= limit + clock.now * limit / 60 + 1e-6
