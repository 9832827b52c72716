"""How far experts agree beyond chance, with bootstrap intervals over the items."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = "npt.NDArray[np.float64]"

Ratings = Sequence[Sequence[Hashable | None]]
"""One row per item, one column per expert; None where an expert gave no judgement."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with a confidence interval."""

    value: float
    low: float
    high: float


def cohens_kappa(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """κ of two experts who both judged every item (Cohen, 1960).

    1 where both always agree in one single category: there is nothing to correct for.
    """
    if len(first) != len(second) or not first:
        raise ValueError("both experts judge the same items, one at least")
    known: dict[Hashable, int] = {}
    codes = [[known.setdefault(value, len(known)) for value in side] for side in (first, second)]
    size = len(known)
    cells = np.array(codes[0]) * size + np.array(codes[1])

    def kappa(drawn: Floats) -> Floats:
        """From how often each pair of categories occurs, (resamples, pairs)."""
        table = drawn.reshape(-1, size, size) / len(first)
        observed = np.trace(table, axis1=1, axis2=2)
        expected = (table.sum(axis=1) * table.sum(axis=2)).sum(axis=1)
        return _beyond_chance(1 - observed, 1 - expected)

    frequency = np.bincount(cells, minlength=size**2)
    return _bootstrapped(kappa, frequency, confidence, resamples, seed)


def krippendorffs_alpha(
    ratings: Ratings, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Krippendorff's alpha of nominal judgements by any number of experts, gaps allowed.

    Krippendorff, "Content analysis", chapter 11; Hayes, Krippendorff (2007). Items with fewer than
    two judgements say nothing and are left out; the interval resamples items. Raises `ValueError`
    if no item has two.
    """
    paired = [row for row in ratings if sum(value is not None for value in row) >= 2]
    if not paired:
        raise ValueError("no item was judged twice")
    categories = sorted({v for row in paired for v in row if v is not None}, key=repr)
    place = {category: index for index, category in enumerate(categories)}
    counts = np.zeros((len(paired), len(categories)))
    for index, row in enumerate(paired):
        for value in row:
            if value is not None:
                counts[index, place[value]] += 1
    # Items judged alike are one kind: drawing items anew is drawing how many of each kind.
    kinds, frequency = np.unique(counts, axis=0, return_counts=True)
    judged = kinds.sum(axis=1)
    # Disagreeing pairs of each item, each judgement counted once over its partners.
    disagreeing = (judged**2 - (kinds**2).sum(axis=1)) / (judged - 1)

    def alpha(drawn: Floats) -> Floats:
        total = drawn @ judged
        marginal = drawn @ kinds
        observed = (drawn @ disagreeing) / total
        expected = (total**2 - (marginal**2).sum(axis=1)) / (total * (total - 1))
        return _beyond_chance(observed, expected)

    return _bootstrapped(alpha, frequency, confidence, resamples, seed)


def _beyond_chance(observed: Floats, expected: Floats) -> Floats:
    """1 - observed / expected disagreement; 1 where there is none to expect."""
    safe = np.where(expected > 0, expected, 1.0)
    return np.where(expected > 0, 1 - observed / safe, 1.0)


def _bootstrapped(
    statistic: Callable[[Floats], Floats],
    frequency: npt.NDArray[np.intp],
    confidence: float,
    resamples: int,
    seed: int,
) -> Estimate:
    """The statistic of how often each kind of item occurs, and its percentile interval."""
    value = float(statistic(frequency[None, :].astype(float))[0])
    items = int(frequency.sum())
    random = np.random.default_rng(seed)
    drawn = random.multinomial(items, frequency / items, size=resamples).astype(float)
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistic(drawn), [tail, 1 - tail])
    return Estimate(value, float(low), float(high))
