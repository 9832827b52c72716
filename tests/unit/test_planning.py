"""How many replicas a load takes: more load never takes fewer, and what is promised holds."""

import itertools
import random

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import CannotPlan
from serving.planning import (
    Curve,
    Load,
    Point,
    at,
    best,
    fitting,
    hit_share,
    parse,
    plan,
    zipf,
)

CURVE = Curve(
    hardware="a test",
    model="tiny",
    tokens=100,
    rank=8,
    adapter_bytes=8 << 20,
    points=(Point(1, 1.0, 0.1, 0.2), Point(8, 5.0, 0.3, 0.9), Point(32, 9.0, 1.5, 4.0)),
    cold_disk=0.2,
    cold_bucket=0.6,
)


def load(**changes: float) -> Load:
    given_ = {"adapters": 1000, "per_second": 10.0, "tokens": 100, "rank": 8, **changes}
    return msgspec.convert(given_, Load)


def test_the_point_with_most_answers_within_the_wanted_time_is_taken() -> None:
    assert best(CURVE, 1.0).at_once == 8
    assert best(CURVE, 10.0).at_once == 32
    with pytest.raises(CannotPlan, match=r"even 1 at once took 0\.20 s"):
        best(CURVE, 0.1)


def test_replicas_follow_from_rate_length_and_headroom() -> None:
    assert plan(CURVE, load(first_seconds=1.0, headroom=0.0)).replicas == 2
    assert plan(CURVE, load(first_seconds=1.0, headroom=0.5)).replicas == 4
    assert plan(CURVE, load(first_seconds=1.0, headroom=0.0, tokens=1000)).replicas == 20


def test_bytes_follow_from_rank() -> None:
    low, high = plan(CURVE, load(rank=8)), plan(CURVE, load(rank=64))
    assert high.bucket_gib == pytest.approx(8 * low.bucket_gib)
    assert low.bucket_gib == pytest.approx(1000 * 8 / 1024)


def test_cost_is_reported_for_an_hour_and_for_a_million_tokens() -> None:
    made = plan(CURVE, load(price=2.0))
    assert made.price_per_hour == 2.0 * made.replicas
    assert made.per_million_tokens == pytest.approx(made.price_per_hour / (10 * 100 * 3600) * 1e6)


@given(
    st.integers(1, 5000), st.floats(0.1, 1000), st.floats(0, 2), st.sampled_from([0.5, 0.9, 0.99])
)
def test_what_a_plan_promises_holds(adapters: int, rate: float, skew: float, wanted: float) -> None:
    made = plan(CURVE, load(adapters=adapters, per_second=rate, skew=skew, resident=wanted))
    assert made.resident >= wanted - 1e-9
    assert 1 <= made.slots <= made.memory_adapters <= adapters
    assert made.replicas * 9.0 * 0.7 >= rate
    more = plan(CURVE, load(adapters=adapters, per_second=rate * 2, skew=skew, resident=wanted))
    assert more.replicas >= made.replicas


@given(st.integers(1, 300), st.floats(0, 2))
def test_more_places_never_hold_less(adapters: int, skew: float) -> None:
    weights = zipf(adapters, skew)
    shares = [hit_share(weights, places) for places in range(1, adapters + 1, 7)]
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(shares))
    assert hit_share(weights, adapters) == 1.0
    places = fitting(weights, 0.9)
    assert hit_share(weights, places) >= 0.9
    assert places == 1 or hit_share(weights, places - 1) < 0.9


@pytest.mark.parametrize(("adapters", "places", "skew"), [(200, 20, 1.0), (50, 40, 0.5)])
def test_the_approximation_is_what_a_least_recently_used_cache_does(
    adapters: int, places: int, skew: float
) -> None:
    weights, chooser = zipf(adapters, skew), random.Random(1)
    held: dict[int, None] = {}
    hits = 0
    for request, adapter in enumerate(chooser.choices(range(adapters), weights.tolist(), k=40_000)):
        hits += adapter in held and request >= 10_000
        held.pop(adapter, None)
        held[adapter] = None
        if len(held) > places:
            del held[next(iter(held))]
    assert hits / 30_000 == pytest.approx(hit_share(weights, places), abs=0.02)


def test_between_measured_points_it_is_a_straight_line() -> None:
    assert at(CURVE.points, 1) == (1.0, 0.1)
    assert at(CURVE.points, 20) == pytest.approx((7.0, 0.9))
    assert at(CURVE.points, 500) == (9.0, 1.5)
    assert np.isclose(zipf(3, 0.0), 1 / 3).all()


@pytest.mark.parametrize("text", [b"{}", b"no json", msgspec.json.encode(
    msgspec.structs.replace(CURVE, points=()))])  # fmt: skip
def test_what_is_no_curve_is_refused_with_the_way_to_make_one(text: bytes) -> None:
    with pytest.raises(CannotPlan, match=r"Make one|Measure again"):
        parse(text)
