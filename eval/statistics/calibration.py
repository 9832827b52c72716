"""How far confidence is from the truth, and fitting it on items kept for that alone."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import KFold

from adapters.agreement import Floats
from adapters.confidence import EDGE, Calibration, calibrated

BINS = 15
MIN_PER_KNOT = 10
"""Isotonic regression memorises: a calibration set needs some items for each step."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """One bin of a reliability diagram."""

    low: float
    high: float
    confidence: float
    """The mean within the bin."""
    accuracy: float
    n: int


def reliability(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = BINS
) -> list[Reliability]:
    """The occupied bins, of equal width, of a reliability diagram.

    Bins are (low, high], as in Guo et al., arXiv 1706.04599; 0 belongs to the first.
    """
    p, y = _checked(confidence, correct)
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, p, side="left") - 1, 0, bins - 1)
    n = np.bincount(index, minlength=bins)
    sums = np.bincount(index, weights=p, minlength=bins)
    right = np.bincount(index, weights=y, minlength=bins)
    return [
        Reliability(
            float(edges[i]), float(edges[i + 1]), float(sums[i] / n[i]), float(right[i] / n[i]),
            int(n[i]),
        )
        for i in np.flatnonzero(n)
    ]  # fmt: skip


def expected_calibration_error(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = BINS
) -> float:
    """ECE: the gap between confidence and accuracy, averaged over items by bins of equal width.

    Naeini et al., AAAI 2015; Guo et al., arXiv 1706.04599. It depends on the bins, and is biased
    upwards for few items: read it beside the Brier score.
    """
    found = reliability(confidence, correct, bins)
    total = sum(part.n for part in found)
    return sum(part.n * abs(part.accuracy - part.confidence) for part in found) / total


def brier_score(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """Mean squared distance of confidence from the truth.

    Brier, Monthly Weather Review 78 (1950).
    """
    p, y = _checked(confidence, correct)
    return float(((p - y) ** 2).mean())


def fit_temperature(scores: npt.ArrayLike, correct: npt.ArrayLike) -> Calibration:
    """The temperature that makes raw scores most likely given what was right.

    Guo et al., arXiv 1706.04599, applied to the log-odds of the one probability that serving sees.
    """
    p, y = _checked(scores, correct)
    odds = np.log(np.clip(p, 1e-12, 1 - 1e-12)) - np.log1p(-np.clip(p, 1e-12, 1 - 1e-12))

    def loss(log_temperature: float) -> float:
        z = odds / np.exp(log_temperature)
        return float((np.logaddexp(0, z) - y * z).mean())

    best = minimize_scalar(loss, bounds=(-5, 5), method="bounded")
    return Calibration(method="temperature", temperature=float(np.exp(best.x)), n=p.size)


def fit_isotonic(scores: npt.ArrayLike, correct: npt.ArrayLike) -> Calibration:
    """The rising step function nearest to what was right, as knots (Zadrozny, Elkan, KDD 2002).

    Raises `ValueError` if all scores are the same: a line needs two knots.
    """
    p, y = _checked(scores, correct)
    fitted = IsotonicRegression(y_min=EDGE, y_max=1 - EDGE, out_of_bounds="clip").fit(p, y)
    knots = tuple(
        (float(x), float(value))
        for x, value in zip(fitted.X_thresholds_, fitted.y_thresholds_, strict=True)
    )
    if len(knots) < 2:
        raise ValueError("all scores are the same: there is nothing to fit")
    return Calibration(method="isotonic", knots=knots, n=p.size)


def fit_calibration(
    scores: npt.ArrayLike, correct: npt.ArrayLike, *, folds: int = 5, seed: int = 0
) -> Calibration:
    """Temperature or isotonic, whichever has the lower Brier score in cross-validation.

    Isotonic regression needs more items (Niculescu-Mizil, Caruana, ICML 2005, found about 1,000);
    cross-validation decides that by the items at hand. Ties go to the temperature.
    """
    p, y = _checked(scores, correct)
    if p.size < folds * MIN_PER_KNOT or np.unique(p).size < 2 * folds:
        return fit_temperature(p, y)
    losses = {"temperature": 0.0, "isotonic": 0.0}
    for kept, left in KFold(folds, shuffle=True, random_state=seed).split(p):
        for method, fit in (("temperature", fit_temperature), ("isotonic", fit_isotonic)):
            found = apply(fit(p[kept], y[kept]), p[left])
            losses[method] += float(((found - y[left]) ** 2).sum())
    better = losses["isotonic"] < losses["temperature"]
    return fit_isotonic(p, y) if better else fit_temperature(p, y)


def apply(calibration: Calibration | None, scores: npt.ArrayLike) -> Floats:
    """Calibrated probabilities, by the very function that serving uses."""
    return np.array([calibrated(float(s), calibration) for s in np.asarray(scores, dtype=float)])


def _checked(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> tuple[Floats, Floats]:
    p, y = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    if p.shape != y.shape or p.ndim != 1 or not p.size:
        raise ValueError("each confidence needs its outcome, and there must be one")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("confidence lies between 0 and 1")
    return p, y
