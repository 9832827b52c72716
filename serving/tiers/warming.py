"""Guarded aliases answered by warm versions only: nobody pays a cold load for a promotion.

Before the replica says that it is ready, every guarded alias's target is brought up, as far as
there is room. Later only what changed is: the target of an alias that has moved, which counts as
used as recently as the version that the alias named before. That version goes on answering until
the new one is up, for a bounded time: then the new one answers, warm or not, so that a promotion
cannot hang on one replica's disk or on its busier adapters.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from adapters.errors import LoraryError
from adapters.names import DEFAULT_ALIAS, AdapterRef
from registry.model.catalog import Catalog, Version
from serving.tiers.residency import Residency

CANDIDATE = " candidate"
"""What the candidate of a split alias is identified by."""
RETRY_SECONDS = 5.0
"""Between two tries to bring up a target that failed."""
PATIENCE_SECONDS = 1.0
"""How long a moved alias waits for its new target to be warm."""

CatalogSource = Callable[[], Catalog]
Chooser = Callable[[Catalog, AdapterRef, str], Version]
CanServe = Callable[[Version], bool]
AliasName = tuple[str, str]
"""An adapter's path and an alias of it."""


@dataclass
class Turn:
    """A guarded alias's version that answers, and since when the alias names another, if it does:
    however often it moves meanwhile, what it named before has no more than its time."""

    serving: Version
    left: float | None = None

    def notice(self, target: Version) -> None:
        """The alias names `target` now."""
        if target.ref == self.serving.ref:
            self.left = None
        elif self.left is None:
            self.left = time.monotonic()

    @property
    def late(self) -> bool:
        """Whether its time is over."""
        return self.left is not None and time.monotonic() - self.left > PATIENCE_SECONDS


class Warming:
    """Keeps guarded aliases' targets warm. Use it from one event loop."""

    def __init__(
        self,
        residency: Residency,
        base: str,
        *,
        most: int = 16,
        choose: Chooser = Catalog.choose,
        can_serve: CanServe = lambda _: True,
    ) -> None:
        """most: how many targets to keep warm, those of the latest moves; what the engine's memory
        cannot hold would only push each other out. choose: which version a caller
        gets. can_serve: whether the engine's task is the version's."""
        self.ready = False
        """Whether every target was brought up, or failed to be, once."""
        self.failures: dict[str, str] = {}
        """Targets that could not be brought up, and why."""
        self._residency = residency
        self._base = base
        self._can_serve = can_serve
        self._most = most
        self._choose = choose
        self._turns: dict[AliasName, Turn] = {}
        self._brought: dict[AliasName, Version] = {}
        """The target that each guarded alias had when it was last brought up."""

    def resolve(self, catalog: Catalog, ref: AdapterRef, caller: str = "") -> Version:
        """As `choose`, but a guarded alias that just moved may still name what is warm."""
        target = self._choose(catalog, ref, caller)
        if ref.version is not None or target.ref != catalog.resolve(ref).ref:
            return target
        alias = (f"{target.domain}/{target.adapter}", ref.alias or DEFAULT_ALIAS)
        turn = self._turns.get(alias)
        if turn is None:
            return target
        turn.notice(target)
        warm = self._residency.tier(target) == "engine"
        before = catalog.find(turn.serving.ref)
        if warm or turn.late or before.revoked is not None or before.tombstone is not None:
            self._turns[alias] = Turn(target)
            return target
        return turn.serving

    def notice(self, catalog: Catalog) -> None:
        """Let the time of what guarded aliases named before begin, though nobody asks for them."""
        for alias, target in self._guarded(catalog).items():
            self._turns.setdefault(alias, Turn(target)).notice(target)

    async def bring_up(self, catalog: Catalog) -> None:
        """Bring up the guarded targets that changed since the last time; one that fails is noted,
        and tried again next time. Those of the latest moves come last, so that they stay.

        It answers from the next request on: by then the alias may have moved again.
        """
        self.notice(catalog)
        failures = {}
        targets = self._guarded(catalog)
        self._brought = {alias: self._brought[alias] for alias in targets if alias in self._brought}
        for alias, target in reversed(targets.items()):
            before = self._brought.get(alias)
            if before is not None and before.ref == target.ref:
                continue
            path, name = alias
            stable = targets.get((path, name.removesuffix(CANDIDATE)))
            try:
                await self._residency.warm(target, replaces=before or stable)
            except LoraryError as error:
                failures[str(target.ref)] = error.detail
            else:
                self._brought[alias] = target
        self.failures = failures
        self.ready = True

    def _guarded(self, catalog: Catalog) -> dict[AliasName, Version]:
        return guarded_targets(catalog, self._base, self._most, self._can_serve)


async def follow(warming: Warming, catalog_of: CatalogSource, poll_seconds: float) -> None:
    """Bring targets up at the start and whenever the catalog changes, until cancelled. Changes are
    noticed while targets are still brought up for the one before."""
    seen, began = -1, 0.0
    bringing: asyncio.Task[None] | None = None
    try:
        while True:
            with contextlib.suppress(LoraryError):  # the registry was not read yet
                catalog = catalog_of()
                changed = catalog.sequence != seen
                if changed:
                    warming.notice(catalog)
                again = warming.failures and time.monotonic() > began + RETRY_SECONDS
                if (changed or again) and (bringing is None or bringing.done()):
                    bringing = asyncio.create_task(warming.bring_up(catalog))
                    seen, began = catalog.sequence, time.monotonic()
            await asyncio.sleep(poll_seconds / 4)
    finally:
        if bringing is not None:
            bringing.cancel()


def guarded_targets(
    catalog: Catalog, base: str, most: int, can_serve: CanServe = lambda _: True
) -> dict[AliasName, Version]:
    """What guarded aliases name now, and their candidates if they are split, for one base model and
    task: of all of them the `most` whose adapters' aliases moved last."""
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
            named = {alias: number} | ({alias + CANDIDATE: split.candidate} if split else {})
            for name, wanted in named.items():
                version = adapter.versions[wanted - 1]
                gone = version.revoked is not None or version.tombstone is not None
                fits = version.base == base and not gone and can_serve(version)
                if fits and len(found) < most:
                    found[path, name] = version
    return found
