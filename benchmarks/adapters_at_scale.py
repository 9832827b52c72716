"""Many adapters on one engine, simulated: the gateway's own scheduling over a measured curve.

    python -m benchmarks.adapters_at_scale --check       # the model beside what was measured
    python -m benchmarks.adapters_at_scale               # policies under Zipf traffic
    python -m benchmarks.adapters_at_scale --hardware cpu --callers 4 --adapters 10000

Nothing here runs a model. The slot scheduler, the residency tiers, the replacement policy, the
request batcher and the trials are the gateway's own; the engine is `benchmarks.simulated_engine`.
Callers form a closed loop, and the n-th adapter is asked for in proportion to 1/n. The limit is
vLLM under the same requests with its adapters folded onto as many as there are slots, all loaded.
"""

import argparse
import asyncio
import bisect
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.load import percentile
from benchmarks.simulated_engine import H200, HARDWARE, Hardware, SimulatedEngine
from serving.planning import zipf
from serving.tiers.batching import RequestBatcher
from serving.tiers.cache import AdapterCache, Load
from serving.tiers.engine import Engine
from serving.tiers.popularity import HALF_LIFE
from serving.tiers.ranks import Rank, Ranks
from serving.tiers.recovery import Probe, Recovery
from serving.tiers.residency import Residency
from serving.tiers.scheduler import SlotScheduler
from serving.tiers.trial import Trials
from tests.support.virtual_time import run_virtually
from tests.support.vllm_engine import LoRARequest

LRU = 0.01
"""The half-life with which LRFU is LRU."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How adapters are scheduled and replaced. slots: what part of them is used, 1/slots."""

    title: str
    half_life: float = HALF_LIFE
    patience: float | None = None
    slots: int = 1
    bare: bool = False


BARE = Policy(title="bare vLLM", bare=True)
BEFORE = Policy(title="slots in turn, LRU (before)", half_life=LRU, patience=0.0)
NOW = Policy(title="batching, LRFU")
POLICIES = (
    BARE,
    BEFORE,
    replace(BEFORE, title="slots in turn, LRFU", half_life=HALF_LIFE),
    replace(NOW, title="batching, LRU", half_life=LRU),
    NOW,
    *(replace(NOW, title=f"the same, 1/{part} of the slots", slots=part) for part in (2, 4)),
)


class SimulatedCache(AdapterCache):
    """The disk, whose reads take the measured time and no thread."""

    def __init__(self, hardware: Hardware, half_life: float) -> None:
        nowhere: Any = None
        super().__init__(Path("/nonexistent"), nowhere, waiting=1 << 20, half_life=half_life)
        self._hardware = hardware

    async def _load(self, version: Any, load: Load) -> None:
        if self.holds(version):
            await asyncio.sleep(self._hardware.verify)
            return
        async with self._turn:
            load.begun = True
            await asyncio.sleep(self._hardware.download)
        self._note(version.digest, 1)


class Served:
    """One side: adapters by number, each held as its policy has it."""

    def __init__(self, engine: SimulatedEngine, policy: Policy) -> None:
        hardware, clock = engine.hardware, asyncio.get_running_loop().time
        patience = hardware.patience if policy.patience is None else policy.patience
        slots = SlotScheduler(hardware.slots // policy.slots, 5.0, clock=clock)
        rank = Rank(slots, RequestBatcher(patience, clock=clock))
        self._residency = None if policy.bare else Residency(
            SimulatedCache(hardware, policy.half_life * hardware.places),
            Engine(engine, engine.lora_requests, LoRARequest),
            Ranks([rank], hardware.places),
            Trials(Recovery(engine, Probe(None), lambda: None), engine.lora_requests),
            max_bytes=1 << 60,
            max_names=hardware.places,
            clock=clock,
        )  # fmt: skip
        self._engine = engine

    @asynccontextmanager
    async def hold(self, number: int) -> AsyncIterator[LoRARequest]:
        """The adapter, ready for a request."""
        name = f"a{number}"
        if self._residency is None:
            yield LoRARequest(name, number + 1, "")
            return
        version: Any = SimpleNamespace(ref=name, digest=name)
        async with self._residency.hold(version) as tier:
            self._engine.counts[tier] += 1
            yield self._engine.lora_requests[name]


@dataclass(frozen=True)
class Result:
    """What a simulation gave."""

    per_second: float
    firsts: list[float]
    counts: Counter[str]


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Who asks. lengths: of answers, each as likely; fold: adapters that stand for all."""

    adapters: int
    callers: int
    lengths: Sequence[int]
    skew: float = 1.0
    fold: int | None = None


async def simulate(
    hardware: Hardware, policy: Policy, traffic: Traffic, *, seconds: float, trials: bool = False
) -> Result:
    """What is answered in `seconds`, after as many that do not count."""
    loop, draw, one = asyncio.get_running_loop(), random.Random(0), asyncio.Lock()
    engine = SimulatedEngine()
    engine.begin(hardware, trials=trials)
    side = Served(engine, policy)
    sums = list(itertools.accumulate(zipf(traffic.adapters, traffic.skew).tolist()))
    answers: list[tuple[float, float]] = []

    async def caller() -> None:
        while True:
            number = bisect.bisect(sums[:-1], draw.random() * sums[-1]) % (traffic.fold or 1 << 60)
            asked = loop.time()
            async with one:
                await asyncio.sleep(hardware.request)
            async with side.hold(number) as lora:
                job = engine.submit(lora, hardware.prompt, draw.choice(traffic.lengths))
                ended = await job.done
            answers.append((ended, job.first.result() - asked))

    callers = [asyncio.create_task(caller()) for _ in range(traffic.callers)]
    await asyncio.sleep(seconds)
    before = Counter(engine.counts)
    await asyncio.sleep(seconds)
    engine.counts.subtract(before)
    for task in (*callers, engine.stepping):
        task.cancel()
    await asyncio.gather(*callers, engine.stepping, return_exceptions=True)
    firsts = [first for ended, first in answers if ended > seconds]
    return Result(len(firsts) / seconds, firsts, engine.counts)


MEASURED = (
    ("1 adapter, 16 callers", BARE, Traffic(adapters=1, callers=16, lengths=(64,)), "25.4"),
    ("1 adapter, 64 callers", BARE, Traffic(adapters=1, callers=64, lengths=(64,)), "54.0 .. 61.0"),
    ("1, 256 callers", BARE, Traffic(adapters=1, callers=256, lengths=(64,)), "77.1 .. 83.8"),
    ("8, 64 callers", BARE, Traffic(adapters=8, callers=64, lengths=(64,), skew=0.0), "49.2"),
    ("32, 64 callers", BARE, Traffic(adapters=32, callers=64, lengths=(64,), skew=0.0), "33.1"),
    ("32, Zipf, 64 callers", BARE, Traffic(adapters=32, callers=64, lengths=(64,)), "37.2"),
    ("1,000, Zipf, gateway", BEFORE, Traffic(adapters=1000, callers=64, lengths=(64,)), "15.3"),
)
"""What the H200 gave (requests a second), by bare vLLM and by the gateway as it was then."""


def check() -> None:
    """The model beside the measurement."""
    print("H200, requests a second      measured  simulated")
    for title, policy, traffic, measured in MEASURED:
        found = run_virtually(simulate(H200, policy, traffic, seconds=30))
        print(f"  {title:24} {measured:>12} {found.per_second:8.1f}")


def compare(hardware: Hardware, traffic: Traffic, *, seconds: float, trials: bool) -> None:
    """Print every policy beside the limit."""
    folded = replace(traffic, fold=hardware.slots)
    limit = run_virtually(simulate(hardware, BARE, folded, seconds=seconds)).per_second
    print(
        f"\n{traffic.adapters:,} adapters, {traffic.callers} callers, answers of "
        f"{min(traffic.lengths)} to {max(traffic.lengths)} tokens; limit {limit:.1f}/s"
    )
    print(f"  {'':28} requests/s share   first p50   p99  most  loads/s  hits  adapters/step")
    free = replace(hardware, load=0.0, activate=0.0, download=0.0, verify=0.0)
    rows = [(policy.title, hardware, policy) for policy in POLICIES]
    for title, engine, policy in (*rows, ("now, if loads cost nothing", free, NOW)):
        found = run_virtually(simulate(engine, policy, traffic, seconds=seconds, trials=trials))
        counts, rate, firsts = found.counts, found.per_second, found.firsts
        held = counts["engine"] / max(1, sum(counts[t] for t in ("engine", "disk", "bucket")))
        print(
            f"  {title:28} {rate:10.1f} {rate / limit:5.2f} {percentile(firsts, 0.5):11.2f} "
            f"{percentile(firsts, 0.99):5.2f} {max(firsts):5.2f} {counts['loads'] / seconds:8.1f} "
            f"{'' if policy.bare else f'{held:.0%}':>5} "
            f"{counts['adapters'] / max(1, counts['steps']):14.1f}"
        )


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="the model beside the measurement")
    parser.add_argument("--hardware", choices=HARDWARE, default="h200")
    parser.add_argument("--adapters", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--callers", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--trials", action="store_true", help="every version is new and is tried")
    options = parser.parse_args()
    if options.check:
        check()
        return
    hardware = HARDWARE[options.hardware]
    lengths = range(hardware.tokens // 4, 7 * hardware.tokens // 4 + 1)
    for callers, adapters in itertools.product(options.callers, options.adapters):
        for tokens in ((hardware.tokens,), lengths):
            traffic = Traffic(adapters=adapters, callers=callers, lengths=tokens)
            compare(hardware, traffic, seconds=options.seconds, trials=options.trials)


if __name__ == "__main__":
    main()
