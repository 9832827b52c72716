"""What is evicted: the least popular adapter, by how often and how recently it was requested."""

import math
import random
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.tiers.popularity import HALF_LIFE, NEVER, Popularity, Ranking

requests = st.lists(st.sampled_from("abcdef"), max_size=60)


def requested(half_life: float, order: list[str] | str) -> Popularity:
    popularity = Popularity(half_life)
    for digest in order:
        popularity.note(digest)
    return popularity


@given(order=requests, half_life=st.floats(0.5, 100))
def test_a_score_is_the_number_of_requests_halved_after_each_half_life(
    order: list[str], half_life: float
) -> None:
    popularity = requested(half_life, order)
    for digest in "abcdef":
        times = [number + 1 for number, other in enumerate(order) if other == digest]
        count = sum(2 ** ((time - len(order)) / half_life) for time in times)
        expected = math.log2(count) + len(order) / half_life if times else NEVER
        assert popularity.of(digest) == pytest.approx(expected)


def test_one_recent_request_counts_less_than_many_before_it() -> None:
    popularity = requested(64, "hhhh" + "o")
    assert popularity.of("o") < popularity.of("h")


def test_an_adapter_that_is_no_longer_requested_sinks_below_one_that_is() -> None:
    popularity = requested(8, "h" * 8 + "n" * 16)
    assert popularity.of("h") < popularity.of("n")


def test_hints_for_an_adapter_count_as_one_request_however_many_come() -> None:
    popularity = requested(64, "hh")
    for _ in range(100):
        popularity.expect("hinted")
    assert NEVER < popularity.of("hinted") < popularity.of("h")


def test_an_heir_ranks_as_high_as_what_it_replaces_and_never_lower_than_before() -> None:
    popularity = requested(64, "hhhbb")
    popularity.inherit("new", popularity.of("b"))
    assert popularity.of("new") == popularity.of("b")
    popularity.inherit("h", popularity.of("b"))
    assert popularity.of("h") > popularity.of("b")


def test_a_million_adapters_requested_once_take_no_more_memory_than_the_bound() -> None:
    popularity = Popularity(64, remembered=100)
    for number in range(1000):
        popularity.note("hot")
        popularity.note(str(number))
    assert popularity.of("hot") > NEVER
    assert sum(popularity.of(str(number)) > NEVER for number in range(1000)) == 99


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["request", "add", "discard", "evict"]), st.integers(0, 5)),
        max_size=80,
    ),
    held=st.sets(st.integers(0, 5)),
)
def test_the_least_popular_that_may_go_is_found(
    steps: list[tuple[str, int]], held: set[int]
) -> None:
    popularity = Popularity(8)
    ranking = Ranking(popularity)
    ranked: list[str] = []
    for what, number in steps:
        digest = str(number)
        match what:
            case "request":
                popularity.note(digest)
            case "add":
                ranking.add(digest)
                ranked += [digest] if digest not in ranked else []
            case "discard":
                ranking.discard(digest)
                ranked = [other for other in ranked if other != digest]
            case "evict":
                found = ranking.least(lambda digest: int(digest) not in held)
                idle = [digest for digest in ranked if int(digest) not in held]
                assert found == min(idle, key=popularity.of, default=None)
                if found is not None:
                    ranking.discard(found)
                    ranked.remove(found)


def hit_rates(adapters: int, places: int, *, change: int | None = None) -> tuple[float, float]:
    """Of LRU and of LRFU, for the same requests by Zipf's law; change: requests after which other
    adapters are the popular ones."""
    draw = random.Random(1)
    names = [str(number) for number in range(adapters)]
    weights = [1 / (number + 1) for number in range(adapters)]
    order = []
    for _ in range(20_000 // (change or 20_000)):
        draw.shuffle(names)
        order += draw.choices(names, weights, k=change or 20_000)
    recent = OrderedDict[str, None]()
    popularity = Popularity(HALF_LIFE * places)
    ranking = Ranking(popularity)
    resident = set[str]()
    hits = [0, 0]
    for name in order:
        hits[0] += name in recent
        recent[name] = None
        recent.move_to_end(name)
        if len(recent) > places:
            recent.popitem(last=False)
        popularity.note(name)
        hits[1] += name in resident
        if name not in resident:
            if len(resident) == places:
                least = ranking.least(lambda digest: True)
                assert least is not None
                resident.remove(least)
                ranking.discard(least)
            resident.add(name)
            ranking.add(name)
    return hits[0] / len(order), hits[1] / len(order)


def test_more_requests_hit_than_with_lru_even_where_the_popularity_changes() -> None:
    lru, lrfu = hit_rates(10_000, 256)
    assert lrfu > lru + 0.07
    lru, lrfu = hit_rates(10_000, 8)
    assert lrfu > lru + 0.1
    lru, lrfu = hit_rates(1000, 256, change=5000)
    assert lrfu > lru
