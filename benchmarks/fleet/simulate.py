"""Many replicas simulated from what one was measured to do, checked against the measured fleet.

    python -m benchmarks.fleet.simulate --curve docs/curves/cpu-one-core.json \
        --check docs/curves/two-replicas.json --plot docs/figures/fleet-simulated.png

Requests choose an adapter by a Zipf law. A replica works on what runs there at the measured rate
for so many at once; an adapter that is not in its memory first takes the measured cold load, one at
a time. With affinity an adapter has its replica, and a next one when that has more than `SPREAD`
times the mean (as the chart's Envoy does); round robin takes the next in turn. Neither the network
nor the machine's other work is simulated.
"""

import argparse
import bisect
import heapq
import itertools
import json
import math
import random
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import msgspec
from matplotlib.figure import Figure

from benchmarks.load import percentile
from serving.planning import Curve, at, parse, zipf

SPREAD = 1.5
"""The chart's `front.spreadAbove`, as a factor."""
SIZES = ((2, 1_000), (10, 1_000), (10, 10_000), (100, 10_000), (100, 100_000))
"""Replicas and adapters that are simulated."""
SIDES = {"affinity": True, "round robin": False}


@dataclass(frozen=True, slots=True)
class Shape:
    """A fleet, and who asks it."""

    replicas: int
    adapters: int
    memory: int
    """Adapters that one replica holds."""
    callers: int
    skew: float = 1.0


@dataclass(frozen=True, slots=True)
class Result:
    """What was found: shares and seconds over the requests that count."""

    resident: float
    first_p50: float
    first_p99: float
    per_second: float


@dataclass(slots=True)
class Request:
    """One request: when it was asked, whether its adapter was held, and the work that is left."""

    asked: float
    hit: bool = False
    first: float = 0.0
    left: float = 1.0


@dataclass(slots=True)
class Replica:
    """One simulated replica."""

    held: OrderedDict[int, None] = field(default_factory=OrderedDict)
    disk: set[int] = field(default_factory=set)
    running: list[Request] = field(default_factory=list)
    assigned: int = 0
    """Running, or waiting for a load."""
    worked_until: float = 0.0
    loads_until: float = 0.0
    foreseen: int = 0
    """Which of the announced completions still holds: the last."""


class Simulation:
    """A closed loop: each caller asks again as soon as it is answered."""

    def __init__(self, curve: Curve, shape: Shape, *, affinity: bool, seed: int = 0) -> None:
        self._curve = curve
        self._shape = shape
        self._affinity = affinity
        self._random = random.Random(seed)
        self._sums = list(itertools.accumulate(zipf(shape.adapters, shape.skew).tolist()))
        self._replicas = [Replica() for _ in range(shape.replicas)]
        self._turns = itertools.cycle(range(shape.replicas))
        self._order = itertools.count()
        self._events: list[tuple[float, int, Replica, Request | int]] = []
        self._by_number = {n: at(curve.points, n) for n in range(1, shape.callers + 1)}

    def run(self, requests: int, *, warm: int) -> Result:
        """Answer so many requests after `warm` that do not count."""
        for _ in range(self._shape.callers):
            self._ask(0.0)
        answered = list(itertools.islice(self._answers(), warm + requests))
        counted = [request for _, request in answered[warm:]]
        seconds = answered[-1][0] - answered[warm - 1][0]
        firsts = [request.first for request in counted]
        return Result(
            resident=sum(request.hit for request in counted) / requests,
            first_p50=median(firsts),
            first_p99=percentile(firsts, 0.99),
            per_second=requests / seconds,
        )

    def _answers(self) -> Iterator[tuple[float, Request]]:
        """Answered requests and when, for ever."""
        while True:
            now, _, replica, what = heapq.heappop(self._events)
            if isinstance(what, Request):
                self._begin(replica, what, now)
            elif what == replica.foreseen:
                self._work(replica, now)
                done = min(replica.running, key=lambda request: request.left)
                replica.running.remove(done)
                replica.assigned -= 1
                self._foresee(replica, now)
                self._ask(now)
                yield now, done

    def _ask(self, now: float) -> None:
        chosen = bisect.bisect(self._sums, self._random.random() * self._sums[-1])
        adapter = min(chosen, self._shape.adapters - 1)
        replica, request = self._route(adapter), Request(now)
        replica.assigned += 1
        request.hit = adapter in replica.held
        replica.held[adapter] = None
        replica.held.move_to_end(adapter)
        if len(replica.held) > self._shape.memory:
            replica.held.popitem(last=False)
        if request.hit:
            self._begin(replica, request, now)
            return
        on_disk = adapter in replica.disk
        replica.disk.add(adapter)
        load = self._curve.cold_disk if on_disk else self._curve.cold_bucket
        replica.loads_until = max(now, replica.loads_until) + load
        heapq.heappush(self._events, (replica.loads_until, next(self._order), replica, request))

    def _route(self, adapter: int) -> Replica:
        if not self._affinity:
            return self._replicas[next(self._turns)]
        running = sum(replica.assigned for replica in self._replicas)
        # As measured of Envoy: whole requests, rounded up twice, and one more than that fits.
        most = math.ceil(math.ceil(SPREAD * (running + 1)) / len(self._replicas))
        order = random.Random(adapter)
        for _ in range(8):
            replica = self._replicas[order.randrange(len(self._replicas))]
            if replica.assigned <= most:
                return replica
        return min(self._replicas, key=lambda replica: replica.assigned)

    def _begin(self, replica: Replica, request: Request, now: float) -> None:
        self._work(replica, now)
        replica.running.append(request)
        request.first = now - request.asked + self._by_number[len(replica.running)][1]
        self._foresee(replica, now)

    def _work(self, replica: Replica, now: float) -> None:
        """Everything that runs goes on alike, at the measured rate for so many."""
        if replica.running:
            rate = self._by_number[len(replica.running)][0] / len(replica.running)
            done = rate * (now - replica.worked_until)
            for request in replica.running:
                request.left -= done
        replica.worked_until = now

    def _foresee(self, replica: Replica, now: float) -> None:
        """Announce the next completion; what was announced before no longer holds."""
        replica.foreseen = order = next(self._order)
        if replica.running:
            rate = self._by_number[len(replica.running)][0] / len(replica.running)
            least = min(request.left for request in replica.running)
            heapq.heappush(self._events, (now + max(0.0, least) / rate, order, replica, order))


def main() -> None:
    """Check against the measurement, then grow."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--curve", type=Path, required=True)
    parser.add_argument("--check", type=Path, help="figures of benchmarks.fleet.affinity")
    parser.add_argument("--requests", type=int, default=40_000)
    parser.add_argument(
        "--cold", type=float, default=1.0, help="cold loads so many times as long: what if"
    )
    parser.add_argument("--plot", type=Path, help="write a picture")
    options = parser.parse_args()
    curve = parse(options.curve.read_bytes())
    if options.check:
        check(curve, json.loads(options.check.read_text()))
    curve = msgspec.structs.replace(
        curve,
        cold_disk=options.cold * curve.cold_disk,
        cold_bucket=options.cold * curve.cold_bucket,
    )
    grown = {}
    print("\nsimulated, one replica's memory 64 adapters, 4 callers for each replica, Zipf 1.0, ")
    print(f"cold loads of {curve.cold_bucket:.2f} s (bucket), {curve.cold_disk:.2f} s (disk)")
    print(
        f"{'replicas':>9} {'adapters':>9}  side         in memory  first p50  first p99  answers/s"
    )
    for replicas, adapters in SIZES:
        shape = Shape(replicas, adapters, memory=64, callers=4 * replicas)
        for side, affinity in SIDES.items():
            found = Simulation(curve, shape, affinity=affinity).run(
                options.requests, warm=options.requests
            )
            grown[replicas, adapters, side] = found
            print(
                f"{replicas:9} {adapters:9}  {side:12} {found.resident:9.1%} "
                f"{found.first_p50:10.3f} {found.first_p99:10.3f} {found.per_second:10.1f}"
            )
    if options.plot:
        draw(grown, options.plot)


def check(curve: Curve, measured: dict[str, object]) -> None:
    """The simulated two replicas beside the measured ones."""
    numbers = {
        name: int(str(measured[name])) for name in ("replicas", "adapters", "memory", "callers")
    }
    turns = measured["turns"]
    print(f"measured and simulated: {numbers}")
    for side, affinity in SIDES.items():
        found = Simulation(curve, Shape(**numbers), affinity=affinity).run(20_000, warm=5_000)
        seen: list[dict[str, float]] = turns[side]  # type: ignore[index]
        for name in ("resident", "first_p50", "first_p99", "per_second"):
            values = [turn[name] for turn in seen]
            print(
                f"  {side:12} {name:10} measured {median(values):.3f} "
                f"[{min(values):.3f} .. {max(values):.3f}], simulated {getattr(found, name):.3f}"
            )


def draw(grown: dict[tuple[int, int, str], Result], path: Path) -> None:
    """In memory, and the slowest first tokens, by size."""
    sizes = list(dict.fromkeys((replicas, adapters) for replicas, adapters, _ in grown))
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for axes, (name, title, scale) in zip(
        figure.subplots(1, 2),
        (
            ("resident", "requests whose adapter was in memory, %", 100),
            ("first_p99", "p99 time to first token, s", 1),
        ),
        strict=True,
    ):
        for offset, (side, colour) in enumerate(
            (("affinity", "#1f5f8b"), ("round robin", "#c0692b"))
        ):
            values = [scale * getattr(grown[(*size, side)], name) for size in sizes]
            places = [place - 0.2 + 0.4 * offset for place in range(len(sizes))]
            axes.bar(places, values, width=0.38, color=colour, label=side)
        axes.set_xticks(range(len(sizes)), [f"{r} x\n{a:,}" for r, a in sizes], fontsize=8)
        axes.set_title(title, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(fontsize=8)
    figure.suptitle("SIMULATED from one replica's measured curve: replicas x adapters", fontsize=10)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
