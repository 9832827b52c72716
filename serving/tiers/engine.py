"""The engine's adapters, driven through vLLM's engine client.

vLLM's worker keeps `max_cpu_loras` adapters in host memory. Two things would make it read files by
itself, in the middle of a step and unverified: adding one more evicts the least recently used, and
a request for an adapter that it does not hold loads that adapter from its path. Neither happens as
long as every load goes through `Engine.load`, which adds, and every eviction through
`Engine.unload`, which removes, and the caller never asks for more adapters than the engine holds.

Requests find their adapter by name in the mapping `lora_requests` of vLLM's `OpenAIServingModels`,
where vLLM's own resolvers put what they found. The entry there is the request that was added here,
so both sides use one id. Ids are never used twice.

With data-parallel ranks every adapter is on all of them: vLLM's client sends each of these calls to
every rank, raises what any of them raises, and returns what the first returned.

`reconcile` compares with the engine's own lists. Nothing in here can make them differ; should
something else do so, it is counted and mended. The list of the first rank is asked for; the others
compare theirs themselves, in `serving.worker`, since only an error of theirs arrives here.

`pin_lora` is not used: besides host memory it pins one of the `max_loras` slots of a batch, which
vLLM's scheduler goes on counting as free, so a full batch of other adapters would end the engine.
"""

import asyncio
import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from serving.errors import EngineRefused
from serving.telemetry.metrics import RESIDENCY_CHECKS, RESIDENCY_DIVERGENCE

RELEASE_SECONDS = 0.02
"""How long a removal waits after its name was withdrawn. A stream whose caller left is aborted when
its generators are closed, a few passes of the event loop after its request has ended here."""
COMPARE = "lorary_compare_adapters"
"""The method of `serving.worker.WorkerExtension`."""
DIFFERENCE = re.compile(r"lorary: lacks \[([\d ]*)\], holds besides \[([\d ]*)\]")
"""What it raises."""


class EngineClient(Protocol):
    """What is used of vLLM's `EngineClient`."""

    async def add_lora(self, lora_request: Any) -> bool:
        """Load an adapter into host memory and a slot, unless its id is held already."""

    async def remove_lora(self, lora_id: int) -> bool:
        """Drop an adapter from both; False if it is not held."""

    async def list_loras(self) -> set[int]:
        """The ids of the adapters in the host memory of the first rank."""

    async def collective_rpc(self, method: str, *, args: tuple[Any, ...]) -> list[Any]:
        """Call a method on every worker of every rank; what those of the first rank return."""


class Engine:
    """The adapters that the engine holds, by pinned name. Use it from one event loop."""

    def __init__(
        self,
        client: EngineClient,
        registered: MutableMapping[str, Any],
        make_request: Callable[[str, int, str], Any],
        *,
        ranks: int = 1,
        release_seconds: float = RELEASE_SECONDS,
    ) -> None:
        """registered: the mapping in which vLLM looks names up. make_request: makes vLLM's
        `LoRARequest` of a name, an id and a path. ranks: data-parallel ones of the engine."""
        self._client = client
        self._registered = registered
        self._make_request = make_request
        self._ranks = ranks
        self._release_seconds = release_seconds
        self._ids = itertools.count(1)
        self._held: dict[str, int] = {}
        self._one_change = asyncio.Lock()

    def __len__(self) -> int:
        """How many adapters the engine holds, those that are just being removed among them."""
        return len(self._held)

    @property
    def names(self) -> set[str]:
        """The same, by name."""
        return set(self._held)

    async def load(self, name: str, path: Path) -> None:
        """Load the adapter at `path` as `name`; one at a time, so that decoding goes on.

        Raises `EngineRefused` with vLLM's reason.
        """
        async with self._one_change:
            request = self._make_request(name, next(self._ids), str(path))
            with _refusing(f"The engine cannot load {name}", "Ask its owner."):
                try:
                    await self._client.add_lora(request)
                except Exception:
                    await self._drop(request.lora_int_id)
                    raise
            self._held[name] = request.lora_int_id
            self._registered[name] = request

    async def unload(self, name: str) -> None:
        """Withdraw `name` and remove its adapter; one that the engine does not hold is fine.

        No request may be using it. Raises `EngineRefused` if the engine does not answer.
        """
        async with self._one_change:
            if name not in self._held:
                return
            self._registered.pop(name, None)
            await asyncio.sleep(self._release_seconds)
            with _refusing(f"The engine cannot remove {name}", "Retry later."):
                await self._client.remove_lora(self._held[name])
            del self._held[name]

    async def reload(self, name: str) -> None:
        """Load an adapter again that the engine lost, under its id; one that it holds is fine.

        Its files must have been verified just now. Raises `EngineRefused`.
        """
        async with self._one_change:
            with _refusing(f"The engine cannot load {name} again", "Retry later."):
                await self._client.add_lora(self._registered[name])

    async def _drop(self, lora_id: int) -> None:
        """Remove what one rank loaded before another failed to; what is left, `reconcile` finds."""
        if self._ranks > 1:
            with contextlib.suppress(Exception):
                await self._client.remove_lora(lora_id)

    async def reconcile(self) -> set[str]:
        """Compare with the lists of all ranks, remove what they should not hold, and return the
        names of the adapters that one of them should hold and does not. Raises `EngineRefused`."""
        async with self._one_change:
            with _refusing("The engine cannot list its adapters", "Retry later."):
                held = set(self._held.values())
                listed = set(await self._client.list_loras())
                absent, unexpected = held - listed, listed - held
                for lora_id in unexpected:
                    await self._client.remove_lora(lora_id)
                if self._ranks > 1:
                    others_absent, others_unexpected = await self._compare_ranks(held - absent)
                    absent |= others_absent
                    unexpected |= others_unexpected
        missing = {name for name, lora_id in self._held.items() if lora_id in absent}
        RESIDENCY_CHECKS.inc()
        RESIDENCY_DIVERGENCE.labels("missing").inc(len(missing))
        RESIDENCY_DIVERGENCE.labels("unexpected").inc(len(unexpected))
        return missing

    async def _compare_ranks(self, expected: set[int]) -> tuple[set[int], set[int]]:
        """Have every rank compare its list, remove what a rank should not hold, and return the ids
        that some rank lacks, and those that were removed.

        Of those that differ one is heard in a round, so a round more than there are ranks, twice,
        leaves none.
        """
        absent, removed = set[int](), set[int]()
        for _ in range(2 * self._ranks + 1):
            required, allowed = sorted(expected - absent), sorted(self._held.values())
            try:
                await self._client.collective_rpc(COMPARE, args=(required, allowed))
            except Exception as error:
                found = DIFFERENCE.search(str(error))
                if found is None:
                    raise
                lacks, extra = ({int(i) for i in group.split()} for group in found.groups())
                absent |= lacks
                removed |= extra
                for lora_id in extra:
                    await self._client.remove_lora(lora_id)
            else:
                break
        return absent, removed


@contextmanager
def _refusing(what: str, remedy: str) -> Iterator[None]:
    """Turn whatever vLLM raises, which may be anything that its worker raised, into one error."""
    try:
        yield
    except Exception as error:
        raise EngineRefused(f"{what}: {_reason(error)} {remedy}") from error


def _reason(error: Exception) -> str:
    """The first line of vLLM's own words, without the traceback."""
    return str(error).partition("\n")[0][:300] or f"{type(error).__name__}."
