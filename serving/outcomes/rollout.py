"""Candidates under watch: what a replica sees of a split's two versions, and what it does about it.

Every request that a split alias answers is counted on the side of its version: whether it
succeeded, and how long it took. When that is evidence enough that the candidate crosses a bound of
its split (`registry.model.trials` decides when), this replica sends nobody to the candidate any
more, at once and whether or not the registry can be reached, and asks the registry until its log
shows that the split has ended. Other replicas go on by what they see themselves, and follow the
log.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Protocol

from adapters.errors import LoraryError
from adapters.names import DEFAULT_ALIAS, AdapterRef
from registry.model.canary import RollBackSplit
from registry.model.catalog import Catalog, Version
from registry.model.trials import (
    PEERS,
    Arm,
    BoundName,
    Evidence,
    Split,
    crosses,
    in_words,
)
from serving.errors import ColdLoadFailed, DiskFull, EngineRefused
from serving.outcomes.reporting import Reports
from serving.telemetry import access_log
from serving.telemetry.metrics import CANARY_REQUESTS, ROLLBACKS, SPLIT_SERIES

FIRST_RETRY, LAST_RETRY = 0.5, 30.0
"""Seconds between two tries to tell the registry: they double from the one to the other."""
RECENT = 200
"""Streams whose time to the first token is remembered, for people to read."""

Pace = Literal["first_token", "per_token"]
"""A stream's seconds to its first piece, or a whole answer's seconds for each token: times of
different kinds are never compared."""
Side = Literal["candidate", "stable"]
SplitName = tuple[str, str, int]
"""An adapter's path, an alias of it, and which of its splits."""


class Outcome(Protocol):
    """How an answer went, as `serving.relay.Relay` has seen it."""

    @property
    def failed(self) -> bool:
        """Whether the server's side failed."""

    @property
    def succeeded(self) -> bool:
        """Whether an answer was given."""

    @property
    def pace(self) -> tuple[Pace | None, float]:
        """What was measured of its pace, and the seconds."""


@dataclass
class Half:
    """What was seen of one version."""

    requests: int = 0
    errors: int = 0
    first_tokens: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    @property
    def arm(self) -> Arm:
        """The same as evidence."""
        times = sorted(self.first_tokens)
        p95 = round(times[int(0.95 * (len(times) - 1))], 4) if times else None
        return Arm(requests=self.requests, errors=self.errors, first_token_p95=p95)


@dataclass
class Trial:
    """What was seen of both versions since this replica knows of the split."""

    split: Split
    candidate: Half = field(default_factory=Half)
    stable: Half = field(default_factory=Half)
    compared: int = 0
    slower: int = 0
    peers: dict[Pace, deque[float]] = field(default_factory=dict)
    """Of each kind of answer, the stable version's latest times since the last comparison."""

    @property
    def evidence(self) -> Evidence:
        """All of it."""
        return Evidence(
            candidate=self.candidate.arm,
            stable=self.stable.arm,
            compared=self.compared,
            slower=self.slower,
        )

    def note(self, side: Side, *, failed: bool, pace: Pace | None, seconds: float) -> None:
        """One request has ended. pace: what `seconds` measures; None if nothing could be."""
        half = self.candidate if side == "candidate" else self.stable
        half.requests += 1
        half.errors += failed
        if pace is None or failed:
            return
        if pace == "first_token":
            half.first_tokens.append(seconds)
        peers = self.peers.setdefault(pace, deque(maxlen=PEERS))
        ratio = self.split.bounds.max_latency_ratio if self.split.bounds else None
        if side == "stable":
            peers.append(seconds)
        elif ratio is not None and len(peers) == PEERS:
            self.compared += 1
            self.slower += seconds > ratio * max(peers)
            peers.clear()  # no time is used twice: comparisons must not depend on one another


@dataclass(frozen=True)
class Held:
    """A candidate that crossed a bound: nobody is sent to it here."""

    split: Split
    bound: BoundName
    evidence: Evidence


class Rollouts:
    """The splits of one replica. Use it from one event loop."""

    def __init__(
        self, catalog: Callable[[], Catalog], reports: Reports, *, replicas: int = 1
    ) -> None:
        self.held: dict[SplitName, Held] = {}
        """Candidates that are no longer served here, until the log shows that their split ended."""
        self._catalog = catalog
        self._reports = reports
        self._replicas = replicas
        self._trials: dict[SplitName, Trial] = {}
        self._telling: set[asyncio.Task[None]] = set()

    def choose(self, catalog: Catalog, ref: AdapterRef, caller: str) -> Version:
        """As `catalog.choose`, but a candidate that crossed a bound here is not served."""
        version = catalog.choose(ref, caller)
        if not self.held or ref.version is not None:
            return version
        path, alias = f"{version.domain}/{version.adapter}", ref.alias or DEFAULT_ALIAS
        split = catalog.adapters[path].splits.get(alias)
        if split is None or (path, alias, split.number) not in self.held:
            return version
        return catalog.resolve(ref)

    def watch(self, catalog: Catalog, ref: AdapterRef | None, version: Version | None) -> "Watch":
        """Watch a request for `ref` that `version` answers, while the context lasts."""
        if version is None or ref is None:
            return Watch(None)
        adapter = catalog.adapters[f"{version.domain}/{version.adapter}"]
        if not adapter.splits:
            return Watch(None)
        alias = ref.alias or DEFAULT_ALIAS
        split = adapter.splits.get(alias)
        sides: dict[int, Side] = {adapter.aliases.get(alias, 0): "stable"}
        if split is None or ref.version is not None:
            return Watch(None)
        sides[split.candidate] = "candidate"
        side = sides.get(version.number)
        if side is None:
            return Watch(None)
        name = (f"{version.domain}/{version.adapter}", alias, split.number)
        return Watch(self, name, split, side)

    def note(
        self,
        name: SplitName,
        split: Split,
        side: Side,
        *,
        failed: bool,
        pace: Pace | None,
        seconds: float,
    ) -> None:
        """A request under a split has succeeded or failed."""
        path, alias, _ = name
        labels = (*path.split("/"), alias)
        SPLIT_SERIES.touch((labels[0], labels[1], labels[2]))
        CANARY_REQUESTS.labels(*labels, side, "error" if failed else "ok").inc()
        trial = self._trials.get(name)
        if trial is None:
            running = set(_running(self._catalog()))
            for over in self._trials.keys() - running:
                del self._trials[over]
            if name not in running:
                return
            trial = self._trials[name] = Trial(split)
        trial.note(side, failed=failed, pace=pace, seconds=seconds)
        if side == "candidate" and name not in self.held:
            self._judge(name, trial)

    def _judge(self, name: SplitName, trial: Trial) -> None:
        bounds = trial.split.bounds
        if bounds is None:
            return
        seen = trial.evidence
        watched: tuple[BoundName, ...] = ("error_rate", "latency_ratio")
        for bound in watched:
            if crosses(bound, bounds, seen, replicas=self._replicas):
                self.held[name] = Held(trial.split, bound, seen)
                ROLLBACKS.labels(bound).inc()
                self._write(name, "candidate_held", self.held[name])
                telling = asyncio.create_task(self._tell(name))
                self._telling.add(telling)
                telling.add_done_callback(self._telling.discard)
                return

    async def _tell(self, name: SplitName) -> None:
        """Ask the registry to end the split until its log shows that it has ended."""
        held, wait, told = self.held[name], FIRST_RETRY, ""
        path, alias, number = name
        while name in _running(self._catalog()):
            try:
                domain, _, adapter = path.partition("/")
                await self._reports.send(
                    RollBackSplit(
                        domain,
                        adapter,
                        alias,
                        candidate=held.split.candidate,
                        split=number,
                        bound=held.bound,
                        evidence=held.evidence,
                    )
                )
            except LoraryError as error:
                if error.code != told:
                    self._write(name, "rollback_not_taken", held, reason=error.message[:300])
                told = error.code
            await asyncio.sleep(wait)
            wait = min(LAST_RETRY, 2 * wait)
        del self.held[name]
        self._write(name, "split_ended", held)

    def _write(self, name: SplitName, event: str, held: Held, reason: str | None = None) -> None:
        path, alias, number = name
        limit = (held.split.bounds.limit(held.bound) if held.split.bounds else None) or 0.0
        seen = in_words(held.bound, limit, held.evidence)
        access_log.write(
            event,
            alias=f"{path}@{alias}",
            candidate=held.split.candidate,
            split=number,
            bound=held.bound,
            seen=seen,
            reason=reason,
        )


class Watch(AbstractContextManager["Watch"]):
    """One request: reports its outcome when it ends."""

    def __init__(
        self,
        rollouts: Rollouts | None,
        name: SplitName = ("", "", 0),
        split: Split | None = None,
        side: Side = "stable",
    ) -> None:
        """rollouts: who wants to know; None if nobody does."""
        self.outcome: Outcome | None = None
        """How the answer goes, once there may be one."""
        self._rollouts, self._name, self._split, self._side = rollouts, name, split, side

    @property
    def split(self) -> tuple[str, int] | None:
        """The alias and the number of the split that the request came by; None if by none."""
        return None if self._rollouts is None else self._name[1:]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Tell how it went, if it went well or the version failed: not where a caller was wrong,
        met a limit or left before an answer began."""
        if self._rollouts is None or self._split is None:
            return
        outcome = self.outcome
        broken = isinstance(error, Exception) and not isinstance(error, LoraryError)
        unloadable = isinstance(error, ColdLoadFailed | EngineRefused) and not isinstance(
            error,
            DiskFull,  # this replica's fault, not the version's
        )
        failed = broken or unloadable or (outcome is not None and outcome.failed)
        if failed or (error is None and outcome is not None and outcome.succeeded):
            pace, seconds = outcome.pace if outcome is not None else (None, 0.0)
            self._rollouts.note(
                self._name, self._split, self._side, failed=failed, pace=pace, seconds=seconds
            )


def _running(catalog: Catalog) -> Iterable[SplitName]:
    """The names of all splits that run."""
    return itertools.chain.from_iterable(
        ((path, alias, split.number) for alias, split in adapter.splits.items())
        for path, adapter in catalog.adapters.items()
        if adapter.splits
    )
