"""Experts' agreement: published examples, a reference library, coverage."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from eval.statistics import cohens_kappa, krippendorffs_alpha

RANDOM = np.random.default_rng(20261127)
N = None


def test_krippendorffs_own_example_has_his_value() -> None:
    # Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), section C: 0.743.
    experts = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
        [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
    ]
    items = list(zip(*experts, strict=True))
    found = krippendorffs_alpha(items)
    assert found.value == pytest.approx(0.743, abs=5e-4)
    assert found.low < found.value < found.high <= 1


def test_a_known_table_has_its_kappa() -> None:
    # 50 grant proposals, two readers: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no.
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = cohens_kappa(first, second)
    assert found.value == pytest.approx(0.4)
    # The large-sample interval of that table is 0.15 to 0.65.
    assert found.low == pytest.approx(0.15, abs=0.05)
    assert found.high == pytest.approx(0.65, abs=0.05)


def test_kappa_is_scikit_learns() -> None:
    for _ in range(20):
        first = RANDOM.integers(0, 4, 60)
        second = np.where(RANDOM.random(60) < 0.6, first, RANDOM.integers(0, 4, 60))
        found = cohens_kappa(first.tolist(), second.tolist(), resamples=2)
        assert found.value == pytest.approx(cohen_kappa_score(first, second))


def test_full_agreement_is_one_even_in_one_category() -> None:
    assert cohens_kappa(["a"] * 5, ["a"] * 5).value == 1
    assert krippendorffs_alpha([["a", "a"]] * 5).value == 1


def test_what_nobody_judged_twice_says_nothing() -> None:
    with pytest.raises(ValueError, match="judged twice"):
        krippendorffs_alpha([["a", None], [None, "b"]])
    with pytest.raises(ValueError, match="same items"):
        cohens_kappa(["a"], [])


def test_agreement_intervals_cover_93_to_97_percent() -> None:
    """Two experts who see the truth with chance 0.8 and guess evenly between two else."""
    n, simulations, insight = 200, 1500, 0.8
    truth = insight**2
    kappa = alpha = 0
    for _ in range(simulations):
        right = RANDOM.integers(0, 2, n)
        judged = [
            np.where(RANDOM.random(n) < insight, right, RANDOM.integers(0, 2, n)).tolist()
            for _ in range(2)
        ]
        found = cohens_kappa(*judged)
        kappa += found.low <= truth <= found.high
        found = krippendorffs_alpha(list(zip(*judged, strict=True)))
        alpha += found.low <= truth <= found.high
    assert 0.93 <= kappa / simulations <= 0.97
    assert 0.93 <= alpha / simulations <= 0.97
