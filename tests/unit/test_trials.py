"""When a candidate is rolled back: seldom if it keeps its bounds, soon if it does not."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from registry.model.trials import (
    ALPHA,
    PEERS,
    Arm,
    BoundName,
    Bounds,
    Evidence,
    crosses,
    e_value,
    in_words,
)

RUNS, LOOKS = 2000, 2000


def first_crossing(hits: NDArray[np.bool_], rate: float, enough: float) -> NDArray[np.int64]:
    """After how many requests each simulated candidate (a row) is rolled back; -1 if it never is.

    Every request is a look. The fewest hits that are enough are found once for each n.
    """
    seen, looks = hits.cumsum(axis=1), hits.shape[1]
    needed, least = np.empty(looks, dtype=np.int64), 0
    for n in range(1, looks + 1):
        while least <= n and e_value(least, n, rate) < enough:
            least += 1
        needed[n - 1] = least
    crossed = seen >= needed
    return np.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1, -1)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.5])
def test_a_candidate_at_its_bound_is_hardly_ever_rolled_back_however_often_one_looks(
    rate: float,
) -> None:
    hits = np.random.default_rng(1).random((RUNS, LOOKS)) < rate
    false = (first_crossing(hits, rate, 1 / ALPHA) > 0).mean()
    # Four standard errors of a share of 2000 runs.
    assert false <= ALPHA + 4 * math.sqrt(ALPHA / RUNS), false


def test_a_fixed_interval_looked_at_after_every_request_would_err_far_more_often() -> None:
    """Why the rule is not the usual one-sided 99 % interval (here Wilson's)."""
    rate, z = 0.05, 2.326
    hits = np.random.default_rng(2).random((RUNS, LOOKS)) < rate
    n = np.arange(1, LOOKS + 1)
    share = hits.cumsum(axis=1) / n
    low = (share + z**2 / (2 * n) - z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))) / (
        1 + z**2 / n
    )
    assert (low[:, 49:] > rate).any(axis=1).mean() > 5 * ALPHA


@pytest.mark.parametrize(
    ("rate", "truth", "within"), [(0.05, 0.15, 300), (0.05, 0.5, 30), (0.01, 0.1, 200)]
)
def test_a_bad_candidate_is_rolled_back_within_so_many_requests(
    rate: float, truth: float, within: int
) -> None:
    hits = np.random.default_rng(3).random((RUNS, within)) < truth
    found = (first_crossing(hits, rate, 1 / ALPHA) > 0).mean()
    assert found >= 0.95, found


@given(st.integers(0, 500), st.integers(0, 500), st.floats(0.001, 0.999))
def test_more_hits_speak_louder_and_more_successes_less(
    hits: int, misses: int, rate: float
) -> None:
    n = hits + misses
    here = e_value(hits, n, rate)
    assert e_value(hits + 1, n + 1, rate) >= here
    assert e_value(hits, n + 1, rate) <= here
    # Its expectation one request later, if the rate is exactly the bound's, is what it is now.
    after = rate * e_value(hits + 1, n + 1, rate) + (1 - rate) * e_value(hits, n + 1, rate)
    assert math.isclose(after, here, rel_tol=1e-6) or here > 1e290


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_an_engine_that_dies_for_everybody_rolls_hardly_anything_back(share: float) -> None:
    """Four hundred good requests, then as many that fail, each on one side by chance."""
    random, blamed = np.random.default_rng(6), 0
    for _ in range(100):
        counts = {True: [0, 0], False: [0, 0]}
        for n in range(800):
            side = counts[bool(random.random() < share)]
            side[0] += 1
            side[1] += n >= 400
            (ours, failed), (theirs, lost) = counts[True], counts[False]
            if crosses(
                "error_rate",
                Bounds(min_requests=20),
                seen(errors=failed, requests=ours, stable=(lost, theirs)),
            ):
                blamed += 1
                break
    assert blamed <= 4, blamed


@given(st.integers(0, 10**6))
def test_a_bound_of_everything_is_never_crossed(n: int) -> None:
    assert e_value(n, n, 1.0) == 0


def seen(
    errors: int = 0,
    requests: int = 100,
    *,
    stable: tuple[int, int] = (0, 1000),
    compared: int = 0,
    slower: int = 0,
    opinions: tuple[int, int] = (0, 0),
) -> Evidence:
    positive, negative = opinions
    candidate = Arm(requests=requests, errors=errors, positive=positive, negative=negative)
    return Evidence(
        candidate=candidate,
        stable=Arm(errors=stable[0], requests=stable[1]),
        compared=compared,
        slower=slower,
    )


@pytest.mark.parametrize(
    ("bound", "evidence", "crossed"),
    [
        ("error_rate", seen(errors=30), True),
        ("error_rate", seen(errors=6), False),
        # Too few to be judged, and an engine that fails for everybody.
        ("error_rate", seen(errors=49, requests=49), False),
        ("error_rate", seen(errors=30, stable=(250, 1000)), False),
        ("error_rate", seen(errors=90, stable=(250, 1000)), True),
        ("error_rate", seen(errors=90, stable=(1, 1)), True),
        ("latency_ratio", seen(compared=20, slower=15), True),
        ("latency_ratio", seen(compared=20, slower=1), False),
        ("latency_ratio", seen(requests=10, compared=20, slower=15), False),
        ("negative_share", seen(requests=0, opinions=(0, 20)), True),
        ("negative_share", seen(requests=0, opinions=(10, 11)), False),
    ],
)
def test_each_bound_is_judged_by_its_own_counts(
    bound: BoundName, evidence: Evidence, crossed: bool
) -> None:
    assert crosses(bound, Bounds(), evidence) == crossed


@pytest.mark.parametrize(
    ("bound", "limit", "words"),
    [
        (
            "error_rate",
            0.05,
            "30 of 100 requests failed (allowed: 5 %); of the stable version's 7 of 1000",
        ),
        (
            "latency_ratio",
            2.0,
            "15 of 20 times it took more than 2 times as long as the slowest of 19 answers of the "
            "stable version (allowed: 1 in 20)",
        ),
        (
            "negative_share",
            0.5,
            "8 of 9 answers were judged negative (allowed: 50 %); of the stable version's 0 of 0",
        ),
    ],
)
def test_the_evidence_is_reported_by_its_own_counts(
    bound: BoundName, limit: float, words: str
) -> None:
    evidence = seen(errors=30, stable=(7, 1000), compared=20, slower=15, opinions=(1, 8))
    assert in_words(bound, limit, evidence) == words


@pytest.mark.parametrize(
    ("bound", "enough"),
    [
        ("error_rate", seen(errors=15)),
        ("latency_ratio", seen(compared=20, slower=6)),
        ("negative_share", seen(opinions=(0, 9))),
    ],
)
def test_what_is_just_enough_for_one_replica_is_not_for_three_nor_without_a_bound(
    bound: BoundName, enough: Evidence
) -> None:
    assert crosses(bound, Bounds(), enough)
    assert not crosses(bound, Bounds(), enough, replicas=3)
    nothing = Bounds(max_error_rate=None, max_latency_ratio=None, max_negative_share=None)
    assert not crosses(bound, nothing, enough)


def comparisons(
    stable: NDArray[np.float64], candidate: NDArray[np.float64], ratio: float
) -> NDArray[np.bool_]:
    """Rows of comparisons, each of one candidate's time with `PEERS` others of its own."""
    groups = stable.reshape(*candidate.shape, PEERS)
    slower: NDArray[np.bool_] = candidate > ratio * groups.max(axis=2)
    return slower


@pytest.mark.parametrize("spread", [0.1, 1.0])
def test_times_are_compared_without_assuming_how_they_are_distributed(spread: float) -> None:
    """Log-normal times, narrow and very wide: alike, and three times as slow at a bound of two."""
    random, runs, looks = np.random.default_rng(4), 1000, 100
    stable = random.lognormal(-2, spread, (runs, looks * PEERS))
    alike = random.lognormal(-2, spread, (runs, looks))
    rate = 1 / (PEERS + 1)
    none = first_crossing(comparisons(stable, alike, 1.0), rate, 1 / ALPHA)
    assert (none > 0).mean() <= ALPHA + 4 * math.sqrt(ALPHA / runs)
    slow = 3 * random.lognormal(-2, spread, (runs, looks))
    found = first_crossing(comparisons(stable, slow, 2.0), rate, 1 / ALPHA)
    if spread < 0.5:
        assert (found > 0).mean() >= 0.99
