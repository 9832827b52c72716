"""Exact confidence bounds and tests from counts, with nothing but `math`. Pure.

Exact means: the chance to err is at most alpha whatever the truth, for every n; not only near it
for large n. A gate must be able to promise that.
"""

import math
from functools import lru_cache

_TINY = 1e-300
_STEPS = 10_000


def lower_bound(hits: float, n: float, alpha: float) -> float:
    """Clopper and Pearson's one-sided lower bound for a rate, at confidence 1 - alpha.

    Clopper, Pearson, Biometrika 26 (1934). `n` may be a fraction: items that are alike count as
    n / design effect (Korn, Graubard, Survey Methodology 24 (1998)). 0 for no items.
    """
    if hits <= 0 or n <= 0:
        return 0.0
    return _beta_quantile(alpha, hits, n - hits + 1)


def upper_bound(hits: float, n: float, alpha: float) -> float:
    """The same from above; for 0 of n about 3/n at alpha = 0.05 (the rule of three). 1 for none."""
    if n <= 0 or hits >= n:
        return 1.0
    return _beta_quantile(1 - alpha, hits + 1, n - hits)


def anytime_lower_bound(hits: int, n: int, alpha: float) -> float:
    """A lower bound for a rate that holds at every n at once, at confidence 1 - alpha.

    The chance that it is ever above the rate is at most alpha, however often it is looked at and
    whatever decides when counting ends. Likelihood ratios of every higher rate against p, mixed
    evenly, are a nonnegative supermartingale if the rate is p or less, so they seldom reach
    1/alpha (Ville's inequality; Robbins, Ann. Math. Stat. 41 (1970); Howard, Ramdas, McAuliffe,
    Sekhon, Ann. Stat. 49 (2021)). The bound is where they do. 0 for no items.
    """
    if hits <= 0 or n <= 0:
        return 0.0
    misses = n - hits
    log_beta = math.lgamma(hits + 1) + math.lgamma(misses + 1) - math.lgamma(n + 2)

    def refuted(p: float) -> bool:
        higher = beta_cdf(1 - p, misses + 1, hits + 1)
        log_likelihood = hits * math.log(p) + misses * math.log1p(-p)
        log_mixture = math.log(max(higher, _TINY)) + log_beta - math.log1p(-p)
        return log_mixture - log_likelihood >= -math.log(alpha)

    low, high = 0.0, hits / n
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def at_least(hits: int, n: int, p: float) -> float:
    """P(X >= hits) for X ~ Binomial(n, p)."""
    if hits <= 0:
        return 1.0
    return 0.0 if hits > n else beta_cdf(p, hits, n - hits + 1)


def inferiority_p_value(gained: int, lost: int, n: int, margin: float) -> float:
    """p-value of "the accuracy of the same items fell by `margin` or more".

    gained, lost: items that only the new or only the old model got right. Given the number of
    discordant items the gains are binomial with rate (1 - margin/psi)/2, where psi, the chance of
    discordance, is unknown: the largest p-value over a confidence interval of psi, plus that
    interval's own error, is exact (Berger, Boos, JASA 89 (1994)). With margin 0 it is the
    one-sided exact McNemar test (McNemar, Psychometrika 12 (1947)), and psi does not matter.
    """
    discordant = gained + lost
    if margin == 0:
        return at_least(gained, discordant, 0.5) if discordant else 1.0
    error = 1e-4
    psi = upper_bound(discordant, n, error)
    if psi <= margin:
        # Even if every discordant item were a loss, no more than psi could be lost.
        return error
    return min(1.0, at_least(gained, discordant, (1 - margin / psi) / 2) + error)


@lru_cache(maxsize=4096)
def _beta_quantile(p: float, a: float, b: float) -> float:
    """Where the distribution function of Beta(a, b) reaches p: bisection, to 1e-12."""
    low, high = 0.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        if beta_cdf(middle, a, b) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b).

    The continued fraction DLMF 8.17.22 by Lentz's method as Thompson and Barnett modified it
    (J. Comput. Phys. 64 (1986)), on the side where it converges fast.
    """
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_cdf(1 - x, b, a)
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
        + a * math.log(x) + b * math.log1p(-x)
    )  # fmt: skip
    c, d = 1.0, 1 / _safe(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d, c = 1 / _safe(1 + even * d), _safe(1 + even / c)
        fraction *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d, c = 1 / _safe(1 + odd * d), _safe(1 + odd / c)
        fraction *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return min(1.0, math.exp(log_front) * fraction / a)


def _safe(x: float) -> float:
    return x if abs(x) > _TINY else _TINY
