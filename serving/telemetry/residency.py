"""Which adapters this replica holds, as routers read it: `lorary:lora_residency_info`.

The gauge has the form of vLLM's `vllm:lora_requests_info`, which llm-d's router and the Gateway
API's endpoint picker read: names in the labels, the time of the last change as the value. vLLM's
lists adapters of running requests only, so an idle adapter looks absent and its next request goes
to a replica that has to load it. This one lists what the engine holds, under every name that
callers may send. It is read from the pool's own list when it is scraped: one series, whatever
changed.

The picker takes a replica for full when the names in both labels reach `max_lora`. So that is how
many names are listed plus how many more adapters there is room for.
"""

import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

NAME = "lorary:lora_residency_info"
MOST_NAMES = 4096
"""Names in each label; those of the least popular adapters are left out beyond it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The adapters of one replica."""

    resident: tuple[str, ...]
    """Names of adapters that the engine holds."""
    awaited: tuple[str, ...]
    """Names of adapters that requests wait for."""
    free: int
    """How many more adapters there is room for."""


class ResidencyInfo(Collector):
    """The gauge; nothing until `read` is set and gives something."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.read: Callable[[], Snapshot | None] = lambda: None
        self._clock = clock
        self._last: Snapshot | None = None
        self._changed = 0.0

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The gauge without a value: nothing is read to register it."""
        return [self._family()]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauge as it is now."""
        snapshot = self.read()
        if snapshot is None:
            return
        if snapshot != self._last:
            self._last, self._changed = snapshot, self._clock()
        held = dict.fromkeys(itertools.islice(snapshot.resident, MOST_NAMES))
        waiting = dict.fromkeys(
            itertools.islice((name for name in snapshot.awaited if name not in held), MOST_NAMES)
        )
        family = self._family()
        family.add_metric(
            [str(len(held) + len(waiting) + snapshot.free), ",".join(held), ",".join(waiting)],
            self._changed,
        )
        yield family

    def _family(self) -> GaugeMetricFamily:
        return GaugeMetricFamily(
            NAME,
            "Adapters that this replica holds and that requests wait for, by the names that "
            "callers send; the value is the time of the last change",
            labels=["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
        )


RESIDENCY_INFO = ResidencyInfo()
REGISTRY.register(RESIDENCY_INFO)
