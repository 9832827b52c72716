"""What one replica knows and keeps: the followed catalog and the adapters on its disk.

One per process, made on first use: vLLM loads plugins in processes that never need it.
"""

import asyncio
import contextlib
import functools
from collections.abc import Iterator

from registry.log.follower import Follower
from registry.model.catalog import Catalog
from registry.model.evidence import Engine as Identity
from registry.store.blobs import Blobs
from serving.batches.deployment import Deployment
from serving.errors import EngineNotAttached, RegistryUnavailable
from serving.faults import Faults
from serving.grammars.gatekeeper import Gatekeeper
from serving.grammars.protocol import Limits as GrammarLimits
from serving.inflight import InFlight
from serving.outcomes.kept_texts import KeptTexts
from serving.outcomes.reporting import Reports
from serving.outcomes.response_ids import ResponseIds
from serving.outcomes.rollout import Rollouts
from serving.outcomes.shadows import Totals
from serving.request.controls import control_tokens
from serving.request.limits import Limits
from serving.request.listing import served_names
from serving.request.salts import Salts
from serving.settings import ServingSettings
from serving.shadow import Shadows
from serving.shutdown import Shutdown
from serving.task import Served
from serving.telemetry.metrics import (
    CACHE_ADAPTERS,
    CACHE_BYTES,
    ENGINE_NAMES,
    REGISTRY_AGE,
    REGISTRY_SEQUENCE,
    ROLLBACKS_UNREPORTED,
    SERIES,
    SLOTS,
)
from serving.telemetry.residency import RESIDENCY_INFO, Snapshot
from serving.tiers.batching import RequestBatcher
from serving.tiers.cache import AdapterCache
from serving.tiers.engine import Engine
from serving.tiers.fairness import ColdLoads, Hints
from serving.tiers.popularity import HALF_LIFE
from serving.tiers.ranks import Rank, Ranks
from serving.tiers.residency import Residency
from serving.tiers.scheduler import SlotScheduler
from serving.tiers.shares import BATCHES, TIMES_FREE_ON_GPU, Shares
from serving.tiers.trial import Trials
from serving.tiers.warming import Warming

BATCH_SHARE = 16
"""Batches hold one of so many places of the engine's batch."""
LOOK_SECONDS = 2.0
"""How long a request waits for the registry to be read again before it is refused."""


class Replica:
    """The parts that gate and endpoints share."""

    def __init__(self, settings: ServingSettings) -> None:
        store = settings.open_store()
        self.settings = settings
        self.follower = Follower(store, poll_seconds=settings.poll_seconds)
        self.cache = AdapterCache(
            settings.cache_folder,
            Blobs(store),
            at_once=settings.cold_loads,
            waiting=settings.cold_queue,
            half_life=HALF_LIFE * settings.max_cpu_loras,
        )
        self.grammars = Gatekeeper(
            GrammarLimits(seconds=settings.grammar_seconds), free=settings.free_grammars
        )
        self.limits = Limits(settings.bounds)
        self.cold_loads = ColdLoads(settings.key_cold_loads)
        self.hints = Hints(lambda version: self.residency.prefetch(version))
        self.inflight = InFlight()
        self.shutdown = Shutdown(
            self.inflight,
            notice=settings.drain_delay_seconds,
            patience=settings.shutdown_grace_seconds,
        )
        serving_key = settings.serving_key.get_secret_value()
        self.response_ids = ResponseIds(serving_key)
        self.salts = Salts(serving_key)
        self.controls = control_tokens(settings.model)
        self.reports = Reports(settings.registry_url, serving_key)
        self.rollouts = Rollouts(lambda: self.catalog, self.reports, replicas=settings.replicas)
        self.served = Served(settings.base_name, settings.task, settings.max_labels)
        self.identity: Identity | None = None
        """What this replica runs, once its engine has started."""
        self.on_cpu = False
        self.batches: Deployment | None = None
        """Files and batches, where there is a place for them."""
        if settings.deployment_name:
            self.batches = Deployment(
                store,
                settings.deployment_name,
                file_bytes=settings.batch_file_bytes,
                owner_bytes=settings.batch_owner_bytes,
                keep_days=settings.batch_keep_days,
            )
        self.lines_at_once = 1
        """Lines of batches that run at once; the places that they hold, too."""
        self._batch_lines = 0
        self._ranks: Ranks | None = None
        self._residency: Residency | None = None
        self._shares: Shares | None = None
        self._faults: Faults | None = None
        self._warming: Warming | None = None
        self._shadows: Shadows | None = None

    def attach(
        self,
        engine: Engine,
        trials: Trials,
        places: int,
        on_cpu: bool,
        ranks: int = 1,
    ) -> None:
        """Serve adapters through `engine`. Called once, before the first request.

        places: sequences in one of its batches. on_cpu: whether it runs on a CPU. ranks: its
        data-parallel ranks, each with a batch and slots of its own.
        """
        settings = self.settings
        self._ranks = Ranks(
            [
                Rank(
                    SlotScheduler(settings.slots, settings.slot_seconds),
                    RequestBatcher(settings.batching_seconds),
                )
                for _ in range(ranks)
            ],
            places,
        )
        SLOTS.labels("batch").set(settings.max_loras * ranks)
        self._residency = Residency(
            self.cache,
            engine,
            self._ranks,
            trials,
            max_bytes=settings.cache_bytes,
            max_names=settings.max_cpu_loras,
        )
        self.on_cpu = on_cpu
        self._shares = Shares(
            places * ranks, most=places // 2, times_free=1 if on_cpu else TIMES_FREE_ON_GPU
        )
        self.lines_at_once = settings.batch_concurrency or max(1, places * ranks // BATCH_SHARE)
        self._shares.bound(BATCHES, self.lines_at_once)
        self._faults = Faults(trials, self.inflight)
        self._warming = Warming(
            self._residency,
            settings.base_name,
            most=settings.max_cpu_loras,
            choose=self.rollouts.choose,
            can_serve=self.served.can,
        )
        self._shadows = Shadows(
            lambda: self.catalog,
            Totals(lambda: self.catalog, self.reports),
            KeptTexts(settings.shadow_folder, settings.shadow_folder_bytes),
            self.inflight,
            self._residency,
            self._shares,
            self._faults,
            concurrency=settings.shadow_concurrency,
            tokens_per_minute=settings.shadow_tokens_per_minute,
            longest=settings.max_model_len,
        )

    @property
    def residency(self) -> Residency:
        """The tiers; raises `EngineNotAttached` before an engine is attached."""
        if self._residency is None:
            raise EngineNotAttached
        return self._residency

    @property
    def ranks(self) -> Ranks:
        """The engine's ranks; raises as `residency`."""
        if self._ranks is None:
            raise EngineNotAttached
        return self._ranks

    @property
    def shares(self) -> Shares:
        """The places of the engine's batches; raises as `residency`."""
        if self._shares is None:
            raise EngineNotAttached
        return self._shares

    @property
    def faults(self) -> Faults:
        """What handles faulty answers; raises as `residency`."""
        if self._faults is None:
            raise EngineNotAttached
        return self._faults

    @property
    def warming(self) -> Warming:
        """What keeps guarded targets warm; raises as `residency`."""
        if self._warming is None:
            raise EngineNotAttached
        return self._warming

    @property
    def shadows(self) -> Shadows:
        """What has candidates answer callers' requests, too; raises as `residency`."""
        if self._shadows is None:
            raise EngineNotAttached
        return self._shadows

    @property
    def catalog(self) -> Catalog:
        """What the registry says, at most a poll old; raises `RegistryUnavailable` before the
        first."""
        if not self.follower.has_read:
            raise RegistryUnavailable(
                "This server has not read its registry yet. Retry in a second.",
                cause=self.follower.error.message if self.follower.error else "",
            )
        return self.follower.catalog

    async def look_again(self) -> Catalog:
        """The catalog after a look that begins now or soon; as it is if that takes too long."""
        future = asyncio.wrap_future(self.follower.look_again())
        await asyncio.wait([future], timeout=LOOK_SECONDS)
        return self.catalog

    @contextlib.contextmanager
    def running_batch_line(self) -> Iterator[None]:
        """Count a line of a batch that the engine works on while the context lasts."""
        self._batch_lines += 1
        try:
            yield
        finally:
            self._batch_lines -= 1

    @property
    def is_crowded(self) -> bool:
        """Whether adapters wait for one of the engine's slots while it works on lines of
        batches."""
        return self._batch_lines > 0 and self.residency.waiting > 0

    def start(self) -> None:
        """Begin to follow the registry."""
        SERIES.most = self.settings.metric_versions
        REGISTRY_SEQUENCE.set_function(lambda: self.follower.catalog.sequence)
        REGISTRY_AGE.set_function(lambda: self.follower.age_seconds)
        CACHE_BYTES.set_function(lambda: self.cache.bytes)
        CACHE_ADAPTERS.set_function(lambda: len(self.cache))
        SLOTS.labels("memory").set(self.settings.max_cpu_loras)
        ENGINE_NAMES.set_function(lambda: self._residency.names if self._residency else 0)
        RESIDENCY_INFO.read = lambda: residency_snapshot(self)
        ROLLBACKS_UNREPORTED.set_function(lambda: len(self.rollouts.held))
        self.follower.start()


def residency_snapshot(replica: Replica) -> Snapshot | None:
    """The adapters in the engine of `replica` and those that requests wait for, by every name that
    callers may use. None before the engine has started or the registry was read."""
    if replica._residency is None or not replica.follower.has_read:
        return None
    residency, catalog = replica._residency, replica.follower.catalog
    resident, awaited = residency.resident, residency.awaited
    return Snapshot(
        resident=tuple(served_names(catalog, resident)),
        awaited=tuple(served_names(catalog, awaited)),
        free=max(0, residency.places - len(resident) - len(awaited)),
    )


@functools.cache
def current() -> Replica:
    """This process's replica, started on first use."""
    replica = Replica(ServingSettings())
    replica.start()
    return replica
