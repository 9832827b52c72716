"""The simulated fleet, where what it must find is known."""

import pytest

from benchmarks.fleet.simulate import Shape, Simulation
from serving.planning import Curve, Point, hit_share, zipf

CURVE = Curve(
    hardware="a test", model="tiny", tokens=4, rank=8, adapter_bytes=1,
    points=(Point(1, 10.0, 0.05, 0.1), Point(4, 20.0, 0.1, 0.2)), cold_disk=0.3, cold_bucket=0.5,
)  # fmt: skip


def test_one_caller_of_one_adapter_gets_the_measured_rate() -> None:
    found = Simulation(CURVE, Shape(1, 1, 1, 1), affinity=True).run(100, warm=10)
    assert found.per_second == pytest.approx(10.0)
    assert found.first_p99 == 0.05
    assert found.resident == 1.0


def test_so_many_at_once_share_the_measured_rate() -> None:
    found = Simulation(CURVE, Shape(1, 4, 4, 4), affinity=True).run(400, warm=50)
    assert found.per_second == pytest.approx(20.0, rel=0.02)


def test_round_robin_holds_in_each_replica_what_a_cache_of_all_adapters_would() -> None:
    shape = Shape(4, 100, 20, 4)
    found = Simulation(CURVE, shape, affinity=False).run(8_000, warm=4_000)
    assert found.resident == pytest.approx(hit_share(zipf(100, 1.0), 20), abs=0.03)


def test_affinity_holds_more_and_begins_sooner() -> None:
    shape = Shape(4, 100, 20, 8)
    affine, round_robin = (
        Simulation(CURVE, shape, affinity=affinity).run(4_000, warm=2_000)
        for affinity in (True, False)
    )
    assert affine.resident > round_robin.resident + 0.1
    assert affine.per_second > round_robin.per_second


def test_the_same_seed_finds_the_same() -> None:
    shape = Shape(2, 10, 3, 4)
    one, two = (Simulation(CURVE, shape, affinity=True, seed=7).run(200, warm=20) for _ in "ab")
    assert one == two
