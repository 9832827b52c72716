"""Tries each version before it serves anybody, and remembers the versions that are faulty.

A version is tried once per replica and digest, when it has been loaded and before the request that
asked for it runs: one test prompt, one token. NaN or infinite logits quarantine it: it is refused
by name for as long as this process runs. So does NaN in ordinary traffic that occurs again when the
request is repeated in a clean engine (`serving.faults`). A version whose distribution is exactly
the base model's is served, with a warning: an update may be too small to change these five numbers
in the engine's precision, and still be meant.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from adapters.errors import LoraryError
from registry.model.catalog import Version
from serving.errors import AdapterFaulty, ColdLoadFailed
from serving.telemetry import access_log
from serving.telemetry.metrics import COLD_LOAD_PHASES, FAULTY_ADAPTERS
from serving.tiers.recovery import Distribution, Recovery

TRIAL_SECONDS = 120.0
"""How long a request waits for its version's trial. A busy engine queues it behind others."""
REMEMBERED = 100_000
"""Digests whose trial is remembered; a version that is forgotten is tried again."""
NOT_FINITE = "its logits are not finite numbers for a test prompt"


class Trials:
    """What this replica knows of versions by their digests. Use it from one event loop."""

    def __init__(self, recovery: Recovery, registered: Mapping[str, Any]) -> None:
        """registered: vLLM's mapping of names to the requests that name a loaded adapter."""
        self.recovery = recovery
        self._registered = registered
        self._sound: OrderedDict[str, None] = OrderedDict()
        self._faulty: dict[str, AdapterFaulty] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._base: Distribution | None = None

    @property
    def faulty(self) -> dict[str, str]:
        """The versions that are refused, and why."""
        return {error.ref: error.reason for error in self._faulty.values()}

    def is_sound(self, version: Version) -> bool:
        """Whether the version was tried and passed."""
        return version.digest in self._sound

    def check(self, version: Version) -> None:
        """Raises `AdapterFaulty` for a version that is known to be faulty."""
        if version.digest in self._faulty:
            raise AdapterFaulty(str(version.ref), self._faulty[version.digest].reason)

    def condemn(self, version: Version, reason: str) -> None:
        """Refuse the version from now on."""
        self._faulty[version.digest] = AdapterFaulty(str(version.ref), reason)
        self._sound.pop(version.digest, None)
        FAULTY_ADAPTERS.set(len(self._faulty))
        access_log.write(
            "adapter_faulty", model=str(version.ref), digest=version.digest, reason=reason
        )

    async def attend(
        self, version: Version, keep: Callable[[], Callable[[], None]], rank: int = 0
    ) -> None:
        """Wait until the loaded `version` has been tried; at once if it was before.

        keep: keeps the version loaded while it is tried, until what it returns is called. rank: of
        the engine's ranks, the one where the version has a slot.
        Raises `AdapterFaulty`, `ColdLoadFailed` if the engine is too busy, and `EngineFault`.
        A caller who leaves ends no trial.
        """
        self.check(version)
        digest = version.digest
        if digest in self._sound:
            self._sound.move_to_end(digest)
            return
        if digest not in self._running:
            trial = self._running[digest] = asyncio.create_task(self._try(version, rank))
            let_go = keep()

            def tried(done: asyncio.Task[None]) -> None:
                let_go()
                del self._running[digest]
                if not done.cancelled():
                    done.exception()  # everybody who asked may have left

            trial.add_done_callback(tried)
        try:
            async with asyncio.timeout(TRIAL_SECONDS):
                await asyncio.shield(self._running[digest])
        except TimeoutError as error:
            raise ColdLoadFailed(
                f"{version.ref} could not be tried in {TRIAL_SECONDS:g} s, because this server is "
                "busy. Retry in a few seconds."
            ) from error
        self.check(version)

    async def _try(self, version: Version, rank: int) -> None:
        try:
            with COLD_LOAD_PHASES.labels("trial").time():
                if self._base is None:
                    self._base = await self._first_token(None, rank)
                found = await self._first_token(self._registered[str(version.ref)], rank)
        except LoraryError:
            raise
        except Exception as error:  # whatever vLLM raises, nothing is known of the version
            access_log.failed("trial", error)
            raise ColdLoadFailed(
                f"{version.ref} could not be tried on this server's engine. Retry in a few seconds."
            ) from error
        if found is None:
            self.condemn(version, NOT_FINITE)
            return
        if found == self._base:
            access_log.write(
                "adapter_without_effect", model=str(version.ref), digest=version.digest
            )
        self._sound[version.digest] = None
        if len(self._sound) > REMEMBERED:
            self._sound.popitem(last=False)

    async def _first_token(self, lora_request: Any, rank: int) -> Distribution | None:
        """As `Recovery.first_token`; NaN counts only if it occurs again in the cache just erased,
        for the first time it may have been another request's."""
        found = await self.recovery.first_token(lora_request, rank)
        return found or await self.recovery.first_token(lora_request, rank)
