"""What writers promise, over a store that fails in every way a store may."""

import pytest

from tests.support.simulation import simulate

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize(("seed", "writers"), [(1, 16), (2, 3)])
def test_nothing_acknowledged_is_lost_and_nothing_takes_effect_twice(
    seed: int, writers: int
) -> None:
    world = simulate(seed, writers=writers, steps=3000)
    assert sum(world.told.acknowledged.values()) > 50
    assert world.told.unknown
    assert {"killed", "late", "lost after", "own conflict", "garbled", "outage"} <= set(
        world.faults
    ), "this seed does not try everything"


def test_a_seed_repeats_a_run() -> None:
    first, second = (simulate(7, writers=4, steps=400) for _ in range(2))
    assert first.faults == second.faults
    assert first.told.acknowledged == second.told.acknowledged
