"""Guarded aliases answered by warm versions only: nobody pays a cold load for a promotion.

Before the replica says that it is ready, every guarded alias's target is brought up. When such an
alias moves, the version it named before goes on answering until the new one is up, for a bounded
time: then the new one answers, warm or not, so that a promotion cannot hang on one replica's disk.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from adapters.errors import LoraryError
from adapters.names import DEFAULT_ALIAS, AdapterRef
from registry.catalog import Catalog, Version
from serving.residency import Residency

RETRY_SECONDS = 5.0
"""Between two tries to bring up a target that failed."""
PATIENCE_SECONDS = 1.0
"""How long a moved alias waits for its new target to be warm."""

CatalogSource = Callable[[], Catalog]
Chooser = Callable[[Catalog, AdapterRef, str], Version]
AliasName = tuple[str, str]
"""An adapter's path and an alias of it."""


@dataclass
class Turn:
    """A guarded alias's target that answers, and the one that waits to, since when."""

    serving: Version
    waiting: Version | None = None
    since: float = 0.0


class Warming:
    """Keeps guarded aliases' targets warm. Use it from one event loop."""

    def __init__(
        self, residency: Residency, base: str, *, most: int = 16, choose: Chooser = Catalog.choose
    ) -> None:
        """most: how many targets to keep warm, those of the latest moves; what the engine's memory
        cannot hold would only push each other out. choose: which version a caller gets."""
        self.ready = False
        """Whether every target was brought up, or failed to be, once."""
        self.failures: dict[str, str] = {}
        """Targets that could not be brought up, and why."""
        self._residency = residency
        self._base = base
        self._most = most
        self._choose = choose
        self._turns: dict[AliasName, Turn] = {}

    def resolve(self, catalog: Catalog, ref: AdapterRef, caller: str = "") -> Version:
        """As `choose`, but a guarded alias that just moved may still name what is warm."""
        target = self._choose(catalog, ref, caller)
        if ref.version is not None or target.ref != catalog.resolve(ref).ref:
            return target
        alias = (f"{target.domain}/{target.adapter}", ref.alias or DEFAULT_ALIAS)
        turn = self._turns.get(alias)
        if turn is None or turn.serving.ref == target.ref:
            return target
        if turn.waiting is None or turn.waiting.ref != target.ref:
            turn.waiting, turn.since = target, time.monotonic()
        warm = self._residency.tier(target) == "engine"
        late = time.monotonic() - turn.since > PATIENCE_SECONDS
        before = catalog.find(turn.serving.ref)
        if warm or late or before.revoked is not None or before.tombstone is not None:
            self._turns[alias] = Turn(target)
            return target
        return turn.serving

    async def bring_up(self, catalog: Catalog) -> None:
        """Bring every guarded target up; one that fails is noted, and tried again next time."""
        failures = {}
        for alias, target in guarded_targets(catalog, self._base, self._most).items():
            try:
                await self._residency.warm(target)
            except LoraryError as error:
                failures[str(target.ref)] = error.message
            turn = self._turns.get(alias)
            if turn is None or str(target.ref) not in failures:
                self._turns[alias] = Turn(target)
        self.failures = failures
        self.ready = True


async def follow(warming: Warming, catalog_of: CatalogSource, poll_seconds: float) -> None:
    """Bring targets up at the start and whenever the catalog changes, until cancelled."""
    seen, tried = -1, 0.0
    while True:
        try:
            catalog = catalog_of()
            again = warming.failures and time.monotonic() > tried + RETRY_SECONDS
            if catalog.sequence != seen or again:
                await warming.bring_up(catalog)
                seen, tried = catalog.sequence, time.monotonic()
        except LoraryError:
            seen = -1  # the registry was not read yet
        await asyncio.sleep(poll_seconds / 4)


def guarded_targets(catalog: Catalog, base: str, most: int) -> dict[AliasName, Version]:
    """What guarded aliases name now, and their candidates if they are split, for one base model:
    of all of them the `most` whose adapters' aliases moved last."""
    found: dict[AliasName, Version] = {}
    moved = sorted(
        (path for path, adapter in catalog.adapters.items() if adapter.moves),
        key=lambda path: catalog.adapters[path].moves[-1].time,
        reverse=True,
    )
    for path in moved:
        adapter = catalog.adapters[path]
        guarded = catalog.domains[adapter.domain].policy.guarded
        for alias in guarded:
            number = adapter.aliases.get(alias)
            if number is None:
                continue
            split = adapter.splits.get(alias)
            named = {alias: number} | ({f"{alias} candidate": split.candidate} if split else {})
            for name, wanted in named.items():
                version = adapter.versions[wanted - 1]
                gone = version.revoked is not None or version.tombstone is not None
                if version.base == base and not gone and len(found) < most:
                    found[path, name] = version
    return found
