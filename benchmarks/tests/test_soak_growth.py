"""What the soak calls growth: a slope of the settled time, beyond doubt and tolerance."""

import random

import pytest

from benchmarks.soak.watching import KEPT, REST, TOLERANCE, Growth, Samples, growths

SERVER = "server RSS, MB"


def sampled(
    per_hour: float, *, minutes: float = 30, what: str = SERVER, begin: float = 0
) -> Growth:
    """A sample every five seconds, with noise, and 200 MB of filling up at first."""
    samples, chance = Samples(), random.Random(4)
    for second in range(0, int(60 * minutes), 5):
        grown = min(200.0, second) + per_hour * second / 3600
        samples.add(float(second), {what: grown + chance.gauss(0, 2)})
    [found] = growths(samples)
    return found


@pytest.mark.parametrize(("per_hour", "grows"), [(0, False), (-90, False), (20, False), (60, True)])
def test_growth_is_what_goes_on_after_the_caches_are_full(per_hour: float, grows: bool) -> None:
    found = sampled(per_hour)
    assert found.promised
    assert found.per_hour == pytest.approx(per_hour, abs=2 * found.half_width)
    assert found.grows is grows


def test_a_short_run_cannot_tell() -> None:
    found = sampled(600, minutes=10)
    assert not found.grows
    assert "too short to tell" in found.text


def test_what_safetensors_keeps_is_shown_and_not_judged() -> None:
    assert not sampled(90, what=KEPT).promised
    assert REST in TOLERANCE
