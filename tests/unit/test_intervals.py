"""Intervals and exact bounds against published values, a reference library, and by simulation."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betainc
from scipy.stats import beta, binom, ttest_1samp

from eval.statistics import (
    clopper_pearson,
    clustered_mean,
    design_effect,
    rule_of_three,
    wilson,
)
from registry.model.intervals import (
    anytime_lower_bound,
    at_least,
    beta_cdf,
    inferiority_p_value,
    lower_bound,
    upper_bound,
)

RANDOM = np.random.default_rng(20261124)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
     (1, 29, 0.0061, 0.1718)],
)  # fmt: skip
def test_wilsons_interval_has_newcombes_values(
    successes: int, n: int, low: float, high: float
) -> None:
    found = wilson(successes, n)
    assert found.low == pytest.approx(low, abs=5e-5)
    assert found.high == pytest.approx(high, abs=5e-5)
    assert found.rate == successes / n


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # The same table, method 5.
    [(81, 263, 0.2527, 0.3676), (15, 148, 0.0578, 0.1617), (0, 20, 0.0, 0.1684),
     (1, 29, 0.0009, 0.1776)],
)  # fmt: skip
def test_the_exact_interval_has_newcombes_values_too(
    successes: int, n: int, low: float, high: float
) -> None:
    found = clopper_pearson(successes, n)
    assert found.low == pytest.approx(low, abs=5e-5)
    assert found.high == pytest.approx(high, abs=5e-5)


@pytest.mark.parametrize("n", [30, 100, 1000])
def test_nothing_wrong_in_n_leaves_three_in_n_plausible(n: int) -> None:
    assert upper_bound(0, n, 0.05) == pytest.approx(rule_of_three(n), rel=0.06)


# At subnormal numbers scipy's is off by a thousandth; mpmath agrees with ours there.
@given(
    st.floats(0.01, 3000), st.floats(0.01, 3000), st.floats(0, 1, allow_subnormal=False)
)  # fmt: skip
def test_the_gates_beta_function_is_scipys(a: float, b: float, x: float) -> None:
    assert beta_cdf(x, a, b) == pytest.approx(betainc(a, b, x), abs=1e-9)


@given(st.integers(1, 2000), st.data(), st.floats(1e-4, 0.2))
def test_the_gates_bounds_are_clopper_and_pearsons(
    n: int, data: st.DataObject, alpha: float
) -> None:
    hits = data.draw(st.integers(0, n))
    low = beta.ppf(alpha, hits, n - hits + 1) if hits else 0.0
    high = beta.ppf(1 - alpha, hits + 1, n - hits) if hits < n else 1.0
    assert lower_bound(hits, n, alpha) == pytest.approx(low, abs=1e-8)
    assert upper_bound(hits, n, alpha) == pytest.approx(high, abs=1e-8)


@given(st.integers(0, 300), st.integers(0, 300), st.floats(0.01, 0.99))
def test_the_gates_tail_is_the_binomials(hits: int, n: int, p: float) -> None:
    assert at_least(hits, n, p) == pytest.approx(binom.sf(hits - 1, n, p), abs=1e-9)


@pytest.mark.parametrize(("n", "rate"), [(50, 0.5), (200, 0.1), (200, 0.7), (1000, 0.95)])
def test_nominal_95_percent_intervals_of_a_share_cover_93_to_97(n: int, rate: float) -> None:
    counts = np.arange(n + 1)
    chance = binom.pmf(counts, n, rate)
    for interval, least in ((wilson, 0.93), (clopper_pearson, 0.95)):
        found = [interval(int(count), n) for count in counts]
        covered = np.array([p.low <= rate <= p.high for p in found])
        assert least <= chance @ covered <= 0.975


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("n", [20, 300])
def test_one_sided_bounds_err_no_more_often_than_they_say(n: int, rate: float) -> None:
    counts = np.arange(n + 1)
    chance = binom.pmf(counts, n, rate)
    high = np.array([upper_bound(int(count), n, 0.05) for count in counts])
    low = np.array([lower_bound(int(count), n, 0.05) for count in counts])
    assert chance @ (high < rate) <= 0.05
    assert chance @ (low > rate) <= 0.05


def chance_ever_above(bound: Callable[[int, int, float], float], rate: float, n: int) -> float:
    """Exactly how often `bound` is above the true rate at any of the first `n` items."""
    going = np.array([1.0])  # the chance of each count of hits, where the bound never was
    for drawn in range(1, n + 1):
        going = np.convolve(going, [1 - rate, rate])
        going *= [bound(hits, drawn, 0.05) <= rate for hits in range(drawn + 1)]
    return float(1 - going.sum())


@pytest.mark.parametrize("rate", [0.3, 0.8])
def test_looking_after_every_item_makes_the_anytime_bound_err_no_more_often(rate: float) -> None:
    assert chance_ever_above(anytime_lower_bound, rate, 60) <= 0.05
    # What a bound for one look does.
    assert chance_ever_above(lower_bound, rate, 60) > 0.05


@given(st.integers(1, 500), st.data(), st.floats(0.001, 0.49))
def test_the_anytime_bound_grows_with_hits_and_stays_below_their_share(
    n: int, data: st.DataObject, alpha: float
) -> None:
    hits = data.draw(st.integers(1, n))
    bound = anytime_lower_bound(hits, n, alpha)
    assert anytime_lower_bound(hits - 1, n, alpha) <= bound < hits / n
    assert anytime_lower_bound(hits, n, alpha / 2) <= bound
    # Uniform mixture over the rates above p, by numbers instead of the incomplete beta function.
    higher = np.linspace(bound, 1, 20_001)
    logs = hits * np.log(higher) + (n - hits) * np.log1p(-np.minimum(higher, 1 - 1e-15))
    ratio = np.trapezoid(np.exp(logs - logs[0]), higher) / (1 - bound)
    assert ratio == pytest.approx(1 / alpha, rel=1e-3)


@pytest.mark.parametrize("margin", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("discordance", [0.06, 0.2, 0.5])
@pytest.mark.parametrize("n", [100, 400])
def test_the_non_inferiority_test_is_wrong_no_more_often_than_it_says(
    n: int, discordance: float, margin: float
) -> None:
    """Exactly, over every outcome, for a model that is worse by just the margin."""
    lost = (discordance + margin) / 2
    for alpha in (0.05, 0.005):
        wrong = 0.0
        for discordant in range(n + 1):
            chance = binom.pmf(discordant, n, discordance)
            if chance < 1e-9:
                continue
            gains = np.arange(discordant + 1)
            given = binom.pmf(gains, discordant, 1 - lost / discordance)
            p = [inferiority_p_value(int(g), discordant - int(g), n, margin) for g in gains]
            wrong += chance * float(given @ (np.array(p) <= alpha))
        assert wrong <= alpha


def test_a_mean_of_single_items_has_the_usual_interval() -> None:
    x = RANDOM.normal(size=40)
    usual = ttest_1samp(x, 0).confidence_interval(0.95)
    found = clustered_mean(x, range(40))
    assert (found.low, found.high) == pytest.approx((usual.low, usual.high))


def test_copies_of_items_add_no_certainty() -> None:
    x = RANDOM.normal(size=40)
    once = clustered_mean(x, range(40))
    thrice = clustered_mean(np.repeat(x, 3), np.repeat(np.arange(40), 3).tolist())
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    copies = np.repeat(np.arange(40), 3).tolist()
    assert design_effect(np.repeat(x, 3), copies) == pytest.approx(3, rel=0.05)
    assert design_effect(x, range(40)) == pytest.approx(1)


def test_what_never_varies_gets_the_worst_design_effect() -> None:
    assert design_effect([1.0] * 6, ["a", "a", "a", "b", "b", "c"]) == pytest.approx(14 / 6)


def test_one_cluster_says_nothing_about_others() -> None:
    with pytest.raises(ValueError, match="one cluster"):
        clustered_mean([1, 0, 1], ["a", "a", "a"])


def test_clustered_intervals_cover_93_to_97_percent_where_simple_ones_do_not() -> None:
    simulations, groups, size, rate = 3000, 60, 5, 0.6
    # Each cluster has its own difficulty, so that its items are alike.
    difficulty = RANDOM.beta(3 * rate, 3 * (1 - rate), size=(simulations, groups, 1))
    answers = RANDOM.random((simulations, groups, size)) < difficulty
    clusters = np.repeat(np.arange(groups), size).tolist()
    clustered = simple = 0
    for right in answers.reshape(simulations, -1):
        found = clustered_mean(right, clusters)
        clustered += found.low <= rate <= found.high
        plain = wilson(int(right.sum()), right.size)
        simple += plain.low <= rate <= plain.high
    assert 0.93 <= clustered / simulations <= 0.97
    assert simple / simulations < 0.90
