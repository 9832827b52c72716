"""What one key and one adapter may take, and when they are told to come again."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import BadRequest
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
        with limits.admit("key"):
            pass
    with pytest.raises(LimitReached) as refused, limits.admit("key"):
        pass
    assert refused.value.retry_after == pytest.approx(1.0)
    with limits.admit("another key"):
        pass
    clock.now += 1.01
    with limits.admit("key"):
        pass


def test_tokens_are_paid_when_they_are_known() -> None:
    clock = Clock()
    limits = Limits(Bounds(key_tokens=600), clock=clock)
    with limits.admit("key") as grant:
        grant.claim("a")
        grant.tokens = 900
    with pytest.raises(LimitReached) as refused, limits.admit("key"):
        pass
    assert refused.value.retry_after == pytest.approx(30.0)
    clock.now += 30.1
    with limits.admit("key"):
        pass


def test_one_hot_adapter_leaves_room_for_the_others() -> None:
    limits = Limits(Bounds(adapter_concurrency=2, concurrency=4))

    @contextmanager
    def running(adapter: str) -> Iterator[None]:
        with limits.admit("k") as grant:
            grant.claim(adapter)
            yield

    with running("hot"), running("hot"):
        with pytest.raises(LimitReached, match="hot"), running("hot"):
            pass
        with running("cold"), running("colder"), pytest.raises(LimitReached), running("coldest"):
            pass
    with running("hot"):
        pass


def test_each_sequence_is_charged_as_a_request() -> None:
    limits = Limits(Bounds(key_requests=60), clock=Clock())
    with limits.admit("key") as grant:
        grant.claim("a", sequences=50)
    with pytest.raises(LimitReached), limits.admit("key") as grant:
        grant.claim("a", sequences=11)
    with limits.admit("key") as grant:
        grant.claim("a", sequences=9)  # the refused one was charged as one
    with pytest.raises(LimitReached), limits.admit("key"):
        pass


def test_what_the_limit_of_tokens_refuses_is_charged_as_one_request() -> None:
    limits = Limits(Bounds(key_requests=60, key_tokens=600), clock=Clock())
    with limits.admit("key") as first:
        first.claim("a", tokens=500)
        with pytest.raises(LimitReached, match="tokens"), limits.admit("key") as second:
            second.claim("a", sequences=50, tokens=200)
        with limits.admit("key") as third:
            third.claim("a", sequences=58)


def test_a_request_above_the_whole_limit_runs_when_nothing_is_used_and_is_paid_back() -> None:
    clock = Clock()
    limits = Limits(Bounds(key_requests=60), clock=clock)
    with limits.admit("key") as grant:
        grant.claim("a", sequences=120)
    with pytest.raises(LimitReached) as refused, limits.admit("key"):
        pass
    assert refused.value.retry_after == pytest.approx(61.0)


def test_sequences_count_against_concurrency() -> None:
    limits = Limits(Bounds(key_concurrency=4, adapter_concurrency=3))
    with limits.admit("key") as grant:
        grant.claim("a", sequences=3)
        with limits.admit("key") as another, pytest.raises(LimitReached, match="of this key"):
            another.claim("b", sequences=2)
        with pytest.raises(LimitReached, match="for a"), limits.admit("other") as third:
            third.claim("a")
    for sequences in (4, 5):
        with limits.admit("key") as grant, pytest.raises(BadRequest, match="Ask for fewer"):
            grant.claim("a", sequences=sequences)
    assert not limits.running.key
    assert not limits.running.adapter


def test_sequences_count_against_the_replicas_concurrency_whosever_they_are() -> None:
    limits = Limits(Bounds(concurrency=4))
    with limits.admit("key") as grant:
        grant.claim("a", sequences=3)
        with limits.admit("other") as another:
            with pytest.raises(LimitReached, match="here"):
                another.claim("b", sequences=2)
            another.claim("b")


def test_what_is_in_flight_is_reserved_and_settled() -> None:
    limits = Limits(Bounds(key_tokens=600), clock=Clock())
    with limits.admit("key") as first:
        first.claim("a", tokens=500)
        with pytest.raises(LimitReached), limits.admit("key") as second:
            second.claim("a", tokens=200)
        first.tokens = 100
    with limits.admit("key") as unknown:
        unknown.claim("a", tokens=400)
        unknown.tokens = None
    with pytest.raises(LimitReached), limits.admit("key") as third:
        third.claim("a", tokens=101)
    with limits.admit("key") as third:
        third.claim("a", tokens=100)


def test_an_error_inside_gives_everything_back() -> None:
    limits = Limits(Bounds(key_concurrency=1, key_tokens=600), clock=Clock())

    def break_off() -> None:
        with limits.admit("key") as grant:
            grant.claim("a", tokens=600)
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            break_off()
    assert not limits.running.key
    assert not limits.running.adapter


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
                with limits.admit("key"):
                    let_in += 1
            except LimitReached:
                continue
        assert let_in <= limit + clock.now * limit / 60 + 1e-6
