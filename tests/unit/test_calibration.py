"""Confidence against the truth: reference libraries, guarantees by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from adapters.confidence import Calibration, calibrated, confidence, raw_score, withheld
from eval.statistics import (
    area_under_risk_coverage,
    brier_score,
    certified_threshold,
    confident_errors,
    expected_calibration_error,
    fit_calibration,
    fit_isotonic,
    fit_temperature,
    reliability,
    risk_coverage,
)
from eval.statistics.calibration import apply

RANDOM = np.random.default_rng(20261126)
scored = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def overconfident(n: int, temperature: float = 2.5) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose log-odds are `temperature` times too large, and what was right."""
    odds = RANDOM.normal(1.0, 1.5, size=n)
    right = RANDOM.random(n) < 1 / (1 + np.exp(-odds))
    return 1 / (1 + np.exp(-temperature * odds)), right


def test_brier_and_reliability_are_scikit_learns() -> None:
    p, y = overconfident(500)
    assert brier_score(p, y) == pytest.approx(brier_score_loss(y, p))
    found = reliability(p, y, bins=15)
    accuracy, mean = calibration_curve(y, p, n_bins=15, strategy="uniform")
    assert [part.accuracy for part in found] == pytest.approx(accuracy)
    assert [part.confidence for part in found] == pytest.approx(mean)


def test_ece_is_the_gap_averaged_over_items() -> None:
    # Two bins: 0.9 sure and half right (gap 0.4, 2 items); 0.2 sure and never right (gap 0.2).
    p, y = [0.9, 0.9, 0.2, 0.2], [1, 0, 0, 0]
    assert expected_calibration_error(p, y, bins=10) == pytest.approx(0.3)
    assert expected_calibration_error([1.0, 0.0], [1, 0]) == 0


def test_risk_rises_with_coverage_as_counted_by_hand() -> None:
    coverage, risk = risk_coverage([0.9, 0.8, 0.8, 0.1], [1, 1, 0, 0])
    assert coverage.tolist() == [0.25, 0.75, 1.0]
    assert risk.tolist() == pytest.approx([0, 1 / 3, 0.5])


@given(scored)
def test_aurc_is_the_mean_risk_whatever_the_order_of_ties(items: list[tuple[float, bool]]) -> None:
    p, y = np.array([p for p, _ in items]), np.array([y for _, y in items])
    shuffled = np.random.default_rng(1).permutation(p.size)
    found = area_under_risk_coverage(p, y)
    assert found == pytest.approx(area_under_risk_coverage(p[shuffled], y[shuffled]))
    assert 0 <= found <= 1
    if len(set(p)) == p.size:
        wrong = (~y)[np.argsort(-p)]
        naive = [wrong[:k].mean() for k in range(1, p.size + 1)]
        assert found == pytest.approx(np.mean(naive))


def test_a_perfect_ranking_has_the_lowest_aurc() -> None:
    y = np.array([1] * 80 + [0] * 20)
    best = area_under_risk_coverage(np.linspace(1, 0, 100), y)
    worst = area_under_risk_coverage(np.linspace(0, 1, 100), y)
    assert best < 0.05 < 0.2 < worst


def test_no_error_among_n_sure_answers_leaves_three_in_n() -> None:
    found = confident_errors([0.95] * 100 + [0.5], [1] * 100 + [0], at=0.9, level=0.9)
    assert found is not None
    assert (found.successes, found.n) == (0, 100)
    assert found.high == pytest.approx(3 / 100, rel=0.02)
    assert confident_errors([0.5], [1], at=0.9) is None


def test_the_temperature_is_found_and_is_logistic_regressions() -> None:
    p, y = overconfident(20_000)
    found = fit_temperature(p, y)
    assert found.temperature == pytest.approx(2.5, rel=0.06)
    odds = np.log(p / (1 - p)).reshape(-1, 1)
    slope = LogisticRegression(C=1e9, fit_intercept=False).fit(odds, y).coef_[0, 0]
    assert 1 / found.temperature == pytest.approx(slope, rel=1e-3)


def test_the_isotonic_knots_say_what_scikit_learn_says() -> None:
    p, y = overconfident(800)
    reference = IsotonicRegression(y_min=1e-6, y_max=1 - 1e-6, out_of_bounds="clip").fit(p, y)
    asked = RANDOM.random(200)
    assert apply(fit_isotonic(p, y), asked) == pytest.approx(reference.predict(asked), abs=1e-6)


def test_calibrating_helps_on_items_that_were_not_fitted() -> None:
    p, y = overconfident(3000)
    for fit in (fit_temperature, fit_isotonic, fit_calibration):
        better = apply(fit(p[:1500], y[:1500]), p[1500:])
        assert brier_score(better, y[1500:]) < brier_score(p[1500:], y[1500:])
        error = expected_calibration_error(better, y[1500:])
        assert error < expected_calibration_error(p[1500:], y[1500:]) / 2


def test_few_items_get_a_temperature_and_many_odd_ones_isotonic() -> None:
    p, y = overconfident(40)
    assert fit_calibration(p, y).method == "temperature"
    scores = RANDOM.random(3000)
    right = RANDOM.random(3000) < np.where(scores > 0.5, 0.6, 0.4)
    assert fit_calibration(scores, right).method == "isotonic"


def test_a_certified_threshold_keeps_its_risk_in_95_of_100_worlds() -> None:
    """Confidence c is right with chance c: the true risk above a threshold is known."""
    broken = certified = 0
    worlds, target = 1500, 0.25
    for _ in range(worlds):
        p = RANDOM.random(400)
        y = RANDOM.random(400) < p
        threshold = certified_threshold(p, y, target_risk=target)
        if threshold is not None:
            certified += 1
            broken += (1 - threshold) / 2 > target + 1e-12
    assert certified / worlds > 0.8
    assert broken / worlds <= 0.05


def test_what_is_never_right_certifies_nothing() -> None:
    assert certified_threshold([0.99] * 50, [0] * 50, target_risk=0.05) is None


def test_raw_scores_are_sequence_probabilities() -> None:
    assert raw_score([math.log(0.5), math.log(0.8)]) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="without tokens"):
        raw_score([])
    assert confidence([math.log(0.5)], None) == pytest.approx(0.5)


def test_a_temperature_above_one_takes_confidence_away() -> None:
    hot = Calibration(method="temperature", temperature=2.0, threshold=0.8)
    assert calibrated(0.9, hot) == pytest.approx(0.75)
    assert calibrated(0.5, hot) == pytest.approx(0.5)
    assert withheld(0.75, hot)
    assert not withheld(0.85, hot)
    assert not withheld(0.0, None)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 10))
def test_calibration_never_reorders_answers(a: float, b: float, temperature: float) -> None:
    fitted = Calibration(method="temperature", temperature=temperature)
    knots = Calibration(method="isotonic", knots=((0.2, 0.1), (0.5, 0.5), (0.9, 0.7)))
    low, high = sorted((a, b))
    for calibration in (fitted, knots):
        assert 0 < calibrated(low, calibration) <= calibrated(high, calibration) < 1
