"""Two models on the same items."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.statistics import (
    Discordance,
    discordance,
    holm,
    mcnemar,
    minimum_detectable_gain,
    non_inferiority,
    paired_bootstrap,
    paired_difference,
)

RANDOM = np.random.default_rng(20261125)


def test_mcnemars_exact_test_counts_coin_tosses() -> None:
    # 2 · (C(12,0) + C(12,1) + C(12,2)) / 2^12
    assert mcnemar(Discordance(10, 2, 50)) == pytest.approx(2 * (1 + 12 + 66) / 4096)
    assert mcnemar(Discordance(0, 0, 50)) == 1.0


def test_non_inferiority_without_a_margin_is_mcnemars_one_sided_test() -> None:
    assert non_inferiority(Discordance(10, 2, 50), 0.0) == pytest.approx((1 + 12 + 66) / 4096)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 600), st.floats(0.001, 0.3))
def test_more_losses_or_a_tighter_margin_never_help(
    gained: int, lost: int, same: int, margin: float
) -> None:
    n = gained + lost + same + 1
    p = non_inferiority(Discordance(gained, lost, n), margin)
    assert 0 <= p <= 1
    assert non_inferiority(Discordance(gained, lost + 1, n), margin) >= p - 1e-12
    assert non_inferiority(Discordance(gained, lost, n), margin / 2) >= p - 1.1e-4


def test_discordance_counts_items_where_one_was_right() -> None:
    found = discordance([1, 1, 0, 0, 1], [1, 0, 1, 0, 0])
    assert (found.gained, found.lost, found.n) == (2, 1, 5)
    assert found.difference == pytest.approx(0.2)
    with pytest.raises(ValueError, match="same items"):
        discordance([1, 0], [1])


def test_holm_gives_the_textbook_values() -> None:
    # As R's p.adjust(c(0.01, 0.04, 0.03, 0.02), "holm").
    assert holm([0.01, 0.04, 0.03, 0.02]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize(("n", "gain"), [(200, 0.089), (400, 0.063), (1000, 0.040)])
def test_what_n_items_can_show(n: int, gain: float) -> None:
    assert minimum_detectable_gain(n) == pytest.approx(gain, abs=5e-4)


def test_a_gain_of_that_size_is_found_four_times_in_five() -> None:
    n, trials = 400, 4000
    gain = minimum_detectable_gain(n)
    chances = [(0.2 + gain) / 2, (0.2 - gain) / 2, 0.8]
    drawn = RANDOM.multinomial(n, chances, size=trials)
    differences = (drawn[:, 0] - drawn[:, 1]) / n
    errors = np.sqrt((drawn[:, 0] + drawn[:, 1]) / n - differences**2) / np.sqrt(n)
    assert np.mean(differences / errors > 1.96) == pytest.approx(0.8, abs=0.03)


def test_paired_intervals_cover_93_to_97_percent() -> None:
    n, simulations, truth = 150, 1200, 0.05
    chances = [0.15, 0.10, 0.75]
    boot = simple = 0
    for drawn in RANDOM.choice(3, p=chances, size=(simulations, n)):
        new, old = drawn == 0, drawn == 1
        found = paired_bootstrap(new, old, resamples=600)
        boot += found.low <= truth <= found.high
        found = paired_difference(new, old)
        simple += found.low <= truth <= found.high
    assert 0.93 <= boot / simulations <= 0.97
    assert 0.93 <= simple / simulations <= 0.97


def test_the_bootstrap_resamples_clusters_where_items_come_in_clusters() -> None:
    new = np.repeat(RANDOM.random(40) < 0.6, 5)
    old = np.repeat(RANDOM.random(40) < 0.4, 5)
    clusters = np.repeat(np.arange(40), 5).tolist()
    alone = paired_bootstrap(new, old)
    together = paired_bootstrap(new, old, clusters=clusters)
    assert together.value == alone.value
    assert together.high - together.low > 1.8 * (alone.high - alone.low)
