"""What a replica sees of shadows: which requests a candidate also answers, and what came of it.

Whether a request is chosen follows from its answer's id, which the gateway makes: no caller can
choose, and whoever has the id can tell afterwards. Totals are reported to the registry, as long as
this process lives and a shadow is known there.
"""

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from adapters.errors import LoraryError
from registry.model.catalog import Catalog
from registry.model.comparisons import Comparison, Shadow
from registry.model.shadow import ReportShadow
from serving.outcomes.reporting import Reports
from serving.telemetry import access_log

GROWTH = 1.25
"""By how much a total has grown when it is reported again before `LONGEST_SECONDS`: the log keeps
every report, so there are few."""
LONGEST_SECONDS = 600.0

ShadowName = tuple[str, str, int]
"""An adapter's path, an alias of it, and which of its shadows."""


def is_chosen(name: ShadowName, share: float, response_id: str) -> bool:
    """Whether the answer with that id is one of the `share` (0..1) that are compared."""
    path, alias, number = name
    digest = hashlib.sha256(f"{path}@{alias}:{number}\n{response_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


@dataclass
class Told:
    """What was reported to the registry last, and when, by the monotonic clock."""

    total: Comparison
    at: float


class Totals:
    """What this process has seen of each shadow. Use it from one event loop."""

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        reports: Reports,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._reports = reports
        self._clock = clock
        self._reporter = secrets.token_hex(8)
        self._totals: dict[ShadowName, Comparison] = {}
        self._told: dict[ShadowName, Told] = {}

    def add(self, name: ShadowName, seen: Comparison) -> None:
        """Count what was seen of one request."""
        self._totals[name] = self.of(name).plus(seen)

    def of(self, name: ShadowName) -> Comparison:
        """What was seen of a shadow so far."""
        return self._totals.get(name, Comparison())

    async def report(self, *, all_of_them: bool = False) -> None:
        """Tell the registry what has changed much, or long ago, or of a shadow that has ended.

        all_of_them: whatever has changed. One that the registry does not take is tried again the
        next time; one that it does not know any more is forgotten.
        """
        if not self._reports.possible:
            return
        for name, total in tuple(self._totals.items()):
            shadow = self._shadow(name)
            if shadow is None:
                self._forget(name)
                continue
            told = self._told.setdefault(name, Told(Comparison(), -LONGEST_SECONDS))
            over = shadow.ended is not None
            if total != told.total and (all_of_them or over or self._is_due(total, told)):
                if not await self._send(name, total):
                    continue
                told.total, told.at = total, self._clock()
            if over and self._totals[name] == told.total:
                self._forget(name)

    async def _send(self, name: ShadowName, total: Comparison) -> bool:
        path, alias, number = name
        domain, _, adapter = path.partition("/")
        report = ReportShadow(domain, adapter, alias, number, self._reporter, total)
        try:
            await self._reports.send(report)
        except LoraryError as error:
            access_log.write(
                "shadow_report_not_taken",
                alias=f"{path}@{alias}",
                code=error.code,
                reason=error.message[:300],
            )
            return False
        return True

    def _is_due(self, total: Comparison, told: Told) -> bool:
        grown = requests(total) >= GROWTH * requests(told.total)
        return grown or self._clock() - told.at >= LONGEST_SECONDS

    def _shadow(self, name: ShadowName) -> Shadow | None:
        path, alias, number = name
        adapter = self._catalog().adapters.get(path)
        known = adapter.shadows if adapter is not None else ()
        return next((s for s in known if (s.alias, s.number) == (alias, number)), None)

    def _forget(self, name: ShadowName) -> None:
        self._totals.pop(name, None)
        self._told.pop(name, None)


def requests(seen: Comparison) -> int:
    """How many requests were chosen."""
    return seen.compared + seen.failed + seen.dropped
