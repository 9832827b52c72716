"""vLLM's adapters as its worker keeps them, without vLLM.

Modelled on vLLM 0.32: `LRUCacheWorkerLoRAManager` (host memory of `max_cpu_loras` adapters, slots
of `max_loras`, each with an order of its own), `AsyncLLM.add_lora`, `remove_lora`, `list_loras` and
`OpenAIServingModels.lora_requests`. What a request does in a step is `step`: an adapter that the
worker does not hold is read from its path there and then.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from serving.tiers.engine import Engine


@dataclass(frozen=True)
class LoRARequest:
    """What is used of vLLM's class of this name."""

    lora_name: str
    lora_int_id: int
    lora_path: str


@dataclass
class VllmEngine:
    """An engine, its client and the mapping of names, in one."""

    max_cpu_loras: int = 100
    max_loras: int = 8
    lora_requests: dict[str, LoRARequest] = field(default_factory=dict)
    """Names that vLLM's serving layer knows."""
    host: OrderedDict[int, LoRARequest] = field(default_factory=OrderedDict)
    """Adapters in host memory, the least recently used first."""
    slots: OrderedDict[int, None] = field(default_factory=OrderedDict)
    loads: list[str] = field(default_factory=list)
    """Names that were added, or removed (with a minus before them)."""
    reread: list[str] = field(default_factory=list)
    """Names whose files were read in the middle of a step."""
    evicted: list[str] = field(default_factory=list)
    """Names that the engine dropped by itself."""
    most: int = 0
    """The most adapters that were in host memory or on their way there at once."""
    refusal: str = ""
    """Why loading fails, if it shall."""
    stuck: asyncio.Event | None = None
    """What loading waits for, if it shall."""
    removing: asyncio.Event | None = None
    """What removing waits for, if it shall."""
    load_seconds: float = 0.0
    _loading: int = 0

    def driven(self) -> Engine:
        """What drives it."""
        return Engine(self, self.lora_requests, LoRARequest, release_seconds=0.0)

    async def add_lora(self, lora_request: LoRARequest) -> bool:
        """Load an adapter, as vLLM's client does."""
        self._loading += 1
        self.most = max(self.most, len(self.host) + self._loading)
        try:
            await asyncio.sleep(self.load_seconds)
            if self.stuck is not None:
                await self.stuck.wait()
            if self.refusal:
                self.loads.append(lora_request.lora_name)
                raise RuntimeError(self.refusal)
        finally:
            self._loading -= 1
        self.loads.append(lora_request.lora_name)
        self._add(lora_request)
        return True

    async def remove_lora(self, lora_id: int) -> bool:
        """Drop an adapter, as vLLM's client does."""
        await asyncio.sleep(0)
        if self.removing is not None:
            await self.removing.wait()
        self.slots.pop(lora_id, None)
        dropped = self.host.pop(lora_id, None)
        if dropped is not None:
            self.loads.append(f"-{dropped.lora_name}")
        return dropped is not None

    async def list_loras(self) -> set[int]:
        """The ids in host memory."""
        return set(self.host)

    def step(self, *names: str) -> None:
        """One step with a request for each of `names`; a KeyError for one that vLLM does not know,
        where its serving layer would have answered 404."""
        for name in names:
            request = self.lora_requests[name]
            if request.lora_int_id not in self.host:
                self.reread.append(name)
                assert Path(request.lora_path).exists(), "this would have been the engine's end"
            self._add(request)

    def holds(self) -> set[str]:
        """The names of the adapters in host memory."""
        return {request.lora_name for request in self.host.values()}

    def _add(self, request: LoRARequest) -> None:
        """As `add_adapter` of the worker: load or touch, evict at capacity, take a slot."""
        key = request.lora_int_id
        if key not in self.host:
            if len(self.host) >= self.max_cpu_loras:
                oldest, evicted = self.host.popitem(last=False)
                self.slots.pop(oldest, None)
                self.evicted.append(evicted.lora_name)
            self.host[key] = request
        self.host.move_to_end(key)
        if key not in self.slots and len(self.slots) >= self.max_loras:
            self.slots.popitem(last=False)
        self.slots[key] = None
        self.slots.move_to_end(key)
