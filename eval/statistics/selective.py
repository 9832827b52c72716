"""Selective answering: risk and coverage, confident errors, certified thresholds."""

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import betainc

from adapters.agreement import Floats
from eval.statistics.calibration import _checked
from eval.statistics.intervals import Proportion, _codes, clopper_pearson, design_effect
from eval.statistics.paired import holm

GRID = (*(round(0.05 * step, 2) for step in range(1, 20)), 0.97, 0.99)
"""Thresholds that may be certified: fixed before any data are seen."""


def risk_coverage(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Coverage, rising, and the share of wrong answers among the surest ones at that coverage.

    Items of one confidence are taken together: no threshold separates them.
    El-Yaniv, Wiener, JMLR 11 (2010).
    """
    p, y = _checked(confidence, correct)
    order = np.argsort(-p, kind="stable")
    wrong = np.cumsum(1 - y[order])
    answered = np.arange(1, p.size + 1)
    last = np.append(p[order][1:] != p[order][:-1], True)
    return answered[last] / p.size, (wrong / answered)[last]


def area_under_risk_coverage(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """AURC: the mean, over items, of the risk at the coverage that ends with the item. Low is good.

    Geifman, Uziel, El-Yaniv, ICLR 2019 (arXiv 1805.08206). Within one confidence, in any order
    alike: the mean over orders.
    """
    p, y = _checked(confidence, correct)
    order = np.argsort(-p, kind="stable")
    ranked, wrong = p[order], 1 - y[order]
    _, first, size = np.unique(-ranked, return_index=True, return_counts=True)
    # Within ties each item is as wrong as the tie is on average.
    mean = np.add.reduceat(wrong, first) / size
    risks = np.cumsum(np.repeat(mean, size)) / np.arange(1, p.size + 1)
    return float(risks.mean())


def confident_errors(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, at: float, level: float = 0.95
) -> Proportion | None:
    """Wrong answers among those with a confidence of at least `at`, with their exact interval; None
    if none is.

    0 of n leaves 3/n plausible (the rule of three); the interval says as much.
    """
    p, y = _checked(confidence, correct)
    sure = p >= at
    if not sure.any():
        return None
    return clopper_pearson(int((1 - y[sure]).sum()), int(sure.sum()), level)


def certified_threshold(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    *,
    target_risk: float,
    clusters: Sequence[Hashable] | None = None,
    delta: float = 0.05,
    grid: Sequence[float] = GRID,
) -> float | None:
    """The lowest threshold above which at most `target_risk` of the answers given are wrong.

    Holds with chance at least 1 - delta over the items, for any model and any finite n, if items
    are independent draws of what will be asked: each threshold's risk is tested with the binomial
    tail, all of them together by Holm (Learn then Test; Angelopoulos, Bates, Candès, Jordan, Lei,
    arXiv 2110.01052). Items of one of the `clusters` are alike: the counts are divided by the
    design effect of the errors among the answers given, which is no longer exact but was simulated
    (`tests/unit/test_clustered_coverage.py`). None if no threshold can be certified. Use items on
    which the confidence was not fitted.
    """
    p, y = _checked(confidence, correct)
    units = np.asarray(range(p.size) if clusters is None else _codes(clusters))
    if units.size != p.size:
        raise ValueError("each item needs its cluster")
    thresholds = np.sort(np.asarray(grid, dtype=float))
    tested = [_tail(1 - y[p >= at], units[p >= at].tolist(), target_risk) for at in thresholds]
    passed = np.asarray(holm(tested)) <= delta
    return float(thresholds[passed][0]) if passed.any() else None


def _tail(wrong: Floats, clusters: Sequence[Hashable], risk: float) -> float:
    """The chance of so few wrong ones, or fewer, if the risk were `risk`; 1 for no items.

    The binomial tail; its continuation between whole numbers is the incomplete beta function.
    """
    if not wrong.size:
        return 1.0
    alone = len(set(clusters)) == 1
    effect = float(wrong.size) if alone else design_effect(wrong, clusters)
    errors, n = float(wrong.sum()) / effect, wrong.size / effect
    return float(betainc(n - errors, errors + 1, 1 - risk)) if errors < n else 1.0
