"""Two models on the same items: tests, differences, and what a set of items can show at all."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, norm

from adapters.agreement import Estimate
from eval.statistics.intervals import clustered_mean
from registry.model.intervals import inferiority_p_value


@dataclass(frozen=True, slots=True)
class Discordance:
    """On how many of `n` items just one of two models was right."""

    gained: int
    lost: int
    n: int

    @property
    def difference(self) -> float:
        """By how much the new model's accuracy is higher."""
        return (self.gained - self.lost) / self.n


def discordance(new: npt.ArrayLike, old: npt.ArrayLike) -> Discordance:
    """The discordant items of two models, from whether each was right, item by item."""
    a, b = np.asarray(new, dtype=bool), np.asarray(old, dtype=bool)
    if a.shape != b.shape or not a.size:
        raise ValueError("both models answer the same items, one at least")
    return Discordance(int((a & ~b).sum()), int((b & ~a).sum()), a.size)


def mcnemar(pair: Discordance) -> float:
    """Two-sided exact p-value of "both models are right equally often".

    McNemar, Psychometrika 12 (1947); exact by the binomial of the discordant items.
    """
    discordant = pair.gained + pair.lost
    if discordant == 0:
        return 1.0
    return float(binomtest(pair.gained, discordant, 0.5).pvalue)


def non_inferiority(pair: Discordance, margin: float) -> float:
    """One-sided exact p-value of "the new model is less accurate by `margin` or more".

    The test that gates apply; its source is there
    (`registry.model.intervals.inferiority_p_value`).
    """
    return inferiority_p_value(pair.gained, pair.lost, pair.n, margin)


def paired_difference(
    new: npt.ArrayLike,
    old: npt.ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """The mean difference of two models' scores on the same items.

    The interval is that of the item-wise differences, clustered if asked: shared difficulty
    cancels out (Miller, arXiv 2411.00640, section 4.2).
    """
    a, b = np.asarray(new, dtype=float), np.asarray(old, dtype=float)
    return clustered_mean(a - b, range(a.size) if clusters is None else clusters, confidence)


def paired_bootstrap(
    new: npt.ArrayLike,
    old: npt.ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """The mean difference with a percentile interval over resampled items, or clusters of items.

    Efron, Tibshirani, "An introduction to the bootstrap", 1993, chapter 13; for two systems on the
    same items Koehn, EMNLP 2004.
    """
    delta = np.asarray(new, dtype=float) - np.asarray(old, dtype=float)
    known: dict[Hashable, int] = {}
    units = range(delta.size) if clusters is None else clusters
    codes = np.array([known.setdefault(unit, len(known)) for unit in units])
    sums, sizes = np.bincount(codes, weights=delta), np.bincount(codes)
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    # In blocks, so that many items times many resamples do not fill the memory.
    block = max(1, 4_000_000 // sums.size)
    for start in range(0, resamples, block):
        stop = min(start + block, resamples)
        drawn = random.integers(0, sums.size, size=(stop - start, sums.size))
        means[start:stop] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(float(delta.mean()), float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted so that all their tests together err with the stated chance at most.

    Holm, Scandinavian Journal of Statistics 6 (1979). In the order given.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    scaled = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, scaled)
    return [float(value) for value in adjusted]


def minimum_detectable_gain(
    n: int, *, discordance: float = 0.2, power: float = 0.8, alpha: float = 0.05
) -> float:
    """The smallest true gain in accuracy that n paired items show with that power, two-sided.

    (z(1 - alpha/2) + z(power)) · sqrt(discordance / n): the paired power formula of Miller,
    arXiv 2411.00640, section 5, with the variance of a difference that is ±1 on the given share
    of items and 0 elsewhere.
    """
    z = float(norm.ppf(1 - alpha / 2) + norm.ppf(power))
    return z * float(np.sqrt(discordance / n))
