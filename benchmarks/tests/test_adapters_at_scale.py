"""The simulation of many adapters: as measured, and what the gateway's scheduling gains."""

import pytest

from benchmarks.adapters_at_scale import BARE, BEFORE, NOW, Policy, Traffic, simulate
from benchmarks.simulated_engine import CPU, H200, Hardware
from tests.support.virtual_time import run_virtually

ZIPF = Traffic(adapters=1000, callers=64, lengths=(64,))
VARIED = Traffic(adapters=1000, callers=64, lengths=range(16, 113))
FEW = Traffic(adapters=8, callers=64, lengths=range(16, 113))


def rate(hardware: Hardware, policy: Policy, traffic: Traffic, seconds: float = 30.0) -> float:
    return run_virtually(simulate(hardware, policy, traffic, seconds=seconds)).per_second


def test_the_gateway_gives_what_it_gave_on_the_h200() -> None:
    assert rate(H200, BEFORE, ZIPF) == pytest.approx(15.3, rel=0.1)


@pytest.mark.parametrize("traffic", [ZIPF, VARIED], ids=["equal", "varied"])
def test_batching_answers_more_than_before_and_than_bare_vllm(traffic: Traffic) -> None:
    now = rate(H200, NOW, traffic)
    assert now > 1.25 * rate(H200, BEFORE, traffic)
    assert now > 1.05 * rate(H200, BARE, traffic)


def test_with_fewer_adapters_than_slots_nothing_is_lost() -> None:
    assert rate(H200, NOW, FEW) > rate(H200, BARE, FEW)
    cpu = Traffic(adapters=4, callers=4, lengths=(48,))
    assert rate(CPU, NOW, cpu, 300.0) > 0.98 * rate(CPU, BARE, cpu, 300.0)
