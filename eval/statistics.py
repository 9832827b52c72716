"""Statistics of evaluation results. Sources are named at each function."""

from dataclasses import dataclass

from scipy.stats import binomtest


@dataclass(frozen=True, slots=True)
class Proportion:
    """`successes` of `n`, with a confidence interval for the underlying rate, all in 0..1."""

    successes: int
    n: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        """The observed share."""
        return self.successes / self.n

    def __str__(self) -> str:
        return f"{100 * self.rate:.1f} % ({100 * self.low:.0f}-{100 * self.high:.0f})"


def wilson(successes: int, n: int, confidence: float = 0.95) -> Proportion:
    """Wilson's score interval, which holds its coverage for small n and rates near 0 or 1.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    Raises `ValueError` unless 0 <= successes <= n and n > 0.
    """
    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Proportion(successes, n, float(interval.low), float(interval.high))
