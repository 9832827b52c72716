"""Coverage by simulation where items come in clusters: every bound, test and certificate errs no
more often than it says, for clusters that are hardly, partly and almost wholly alike."""

import numpy as np
import pytest

from eval.scoring import pairing, tally
from eval.statistics import certified_threshold
from registry.model.evidence import Paired, Tally, effective
from registry.model.intervals import inferiority_p_value, lower_bound, upper_bound

WORLDS = 200
ALPHA = 0.005
"""As where a policy's alpha of 5 % is shared by ten looks."""
Bools = np.ndarray


def alike(
    random: np.random.Generator, rate: float, groups: int, size: int, correlation: float
) -> Bools:
    """Which items are right, by cluster: each cluster has its own difficulty (beta-binomial)."""
    odds = (1 - correlation) / correlation
    skill = random.beta(rate * odds, (1 - rate) * odds, size=(groups, 1))
    return random.random((groups, size)) < skill


def units(groups: int, size: int) -> list[str]:
    return np.repeat(np.arange(groups).astype(str), size).tolist()


def most(alpha: float) -> float:
    """What the simulated share of errors stays below if the true one is alpha, save one time in a
    thousand."""
    return alpha + 3.1 * float(np.sqrt(alpha * (1 - alpha) / WORLDS))


@pytest.mark.parametrize("correlation", [0.05, 0.6])
@pytest.mark.parametrize(
    ("rate", "groups", "size"), [(0.5, 60, 3), (0.8, 5, 10), (0.9, 10, 10), (0.95, 20, 10)]
)
def test_bounds_of_a_share_cover_as_stated(
    rate: float, groups: int, size: int, correlation: float
) -> None:
    random, names = np.random.default_rng(20), units(groups, size)
    low = high = 0
    for _ in range(WORLDS):
        found: Tally = tally(alike(random, rate, groups, size, correlation).ravel().tolist(), names)
        hits, n = effective(found.hits, found), effective(found.n, found)
        low += lower_bound(hits, n, ALPHA) > rate
        high += upper_bound(hits, n, ALPHA) < rate
    assert low / WORLDS <= most(ALPHA)
    assert high / WORLDS <= most(ALPHA)


@pytest.mark.parametrize("margin", [0.0, 0.05])
@pytest.mark.parametrize("correlation", [0.3, 0.9])
@pytest.mark.parametrize(("groups", "size"), [(20, 10), (60, 3)])
def test_a_version_that_is_worse_by_the_margin_seldom_passes(
    groups: int, size: int, correlation: float, margin: float
) -> None:
    """What only one of the two gets right comes in clusters, too."""
    random, names = np.random.default_rng(21), units(groups, size)
    old, passed = [False] * (groups * size), 0
    for _ in range(WORLDS):
        discordant = alike(random, 0.3, groups, size, correlation)
        worse = alike(random, (1 + margin / 0.3) / 2, groups, size, correlation)
        lost = (discordant & worse).ravel()
        gained = (discordant & ~worse).ravel()
        old = lost.tolist()
        pair: Paired = pairing("0" * 64, gained.tolist(), old, names)
        won = int(effective(pair.gained, pair))
        gone = int(np.ceil(effective(pair.lost, pair)))
        n = max(int(effective(pair.n, pair)), won + gone)
        passed += inferiority_p_value(won, gone, n, margin) <= ALPHA
    assert passed / WORLDS <= most(ALPHA)


@pytest.mark.parametrize("correlation", [0.1, 0.95])
@pytest.mark.parametrize(("groups", "size"), [(200, 4)])
def test_a_certificate_keeps_its_risk_in_95_of_100_worlds_where_items_are_alike(
    groups: int, size: int, correlation: float
) -> None:
    """Items of a cluster have one confidence c, and are right with chance c: the true risk above a
    threshold is known."""
    random, names = np.random.default_rng(22), units(groups, size)
    target, broken, certified = 0.25, 0, 0
    for _ in range(WORLDS):
        sure = random.random((groups, 1))
        odds = (1 - correlation) / correlation
        skill = random.beta(sure * odds, (1 - sure) * odds)
        right = random.random((groups, size)) < skill
        p = np.repeat(sure, size, axis=1).ravel()
        threshold = certified_threshold(p, right.ravel(), target_risk=target, clusters=names)
        if threshold is not None:
            certified += 1
            broken += (1 - threshold) / 2 > target + 1e-12
    assert broken / WORLDS <= most(0.05)
    assert certified, "a certificate that is never given keeps every promise"
