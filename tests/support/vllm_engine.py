"""vLLM's adapters as its worker keeps them, without vLLM.

Modelled on vLLM 0.32: `LRUCacheWorkerLoRAManager` (host memory of `max_cpu_loras` adapters, slots
of `max_loras`, each with an order of its own), `AsyncLLM.add_lora`, `remove_lora`, `list_loras` and
`OpenAIServingModels.lora_requests`. What a request does in a step is `step`: an adapter that the
worker does not hold is read from its path there and then.
"""

import asyncio
import contextlib
import math
from collections import OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from serving.tiers.engine import Engine
from serving.tiers.recovery import Probe, Recovery
from serving.tiers.trial import Trials


@dataclass(frozen=True)
class LoRARequest:
    """What is used of vLLM's class of this name."""

    lora_name: str
    lora_int_id: int
    lora_path: str


@dataclass
class KvCache:
    """Blocks of the KV cache as vLLM gives them out, each sound or full of NaN.

    Modelled on `BlockPool.free_blocks`: a request's last block, which is not full, is the first to
    be given out again; nothing is cleared in between.
    """

    free: list[int] = field(default_factory=lambda: list(range(64)))
    poisoned: set[int] = field(default_factory=set)

    def take(self, *, nan: bool) -> tuple[int, bool]:
        """A block for a request, and whether its logits are NaN. nan: its adapter overflows."""
        block = self.free.pop(0)
        corrupted = nan or block in self.poisoned
        if corrupted:
            self.poisoned.add(block)
        return block, corrupted

    def give_back(self, block: int) -> None:
        """The request has ended."""
        self.free.insert(0, block)


@dataclass
class VllmEngine:
    """An engine, its client and the mapping of names, in one."""

    max_cpu_loras: int = 100
    max_loras: int = 8
    places: int = 64
    """Sequences in a batch."""
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
    filled: list[str] = field(default_factory=list)
    """Names whose adapter was copied from host memory into a slot."""
    most: int = 0
    """The most adapters that were in host memory or on their way there at once."""
    refusal: str = ""
    """Why loading fails, if it shall."""
    stuck: asyncio.Event | None = None
    """What loading waits for, if it shall."""
    removing: asyncio.Event | None = None
    """What removing waits for, if it shall."""
    load_seconds: float = 0.0
    cache: KvCache = field(default_factory=KvCache)
    overflowing: set[str] = field(default_factory=set)
    """Names of adapters with which every request's logits are NaN."""
    idle: set[str] = field(default_factory=set)
    """Names of adapters that change nothing."""
    probes: list[str | None] = field(default_factory=list)
    """What was asked through the engine client: names, or None for the base model."""
    calls: list[str] = field(default_factory=list)
    """What was done to the engine as a whole."""
    base_overflows: bool = False
    """Whether the base model's logits are NaN, too."""
    held: asyncio.Event | None = None
    """What the first token of an adapter waits for, if it shall."""
    broken_rpc: bool = False
    """Whether the workers fail."""
    given_up: int = 0
    """How often the server was told to end."""
    running: dict[int, int] = field(default_factory=dict)
    """Blocks of the requests of the engine client, by request."""
    _loading: int = 0

    def driven(self) -> Engine:
        """What drives it."""
        return Engine(self, self.lora_requests, LoRARequest, release_seconds=0.0)

    def tried(self) -> Trials:
        """What tries its adapters."""

        def give_up() -> None:
            self.given_up += 1

        return Trials(Recovery(self, Probe(None), give_up), self.lora_requests)

    async def generate(
        self,
        prompt: Any,
        sampling_params: Any,
        request_id: str,
        *,
        lora_request: Any = None,
        data_parallel_rank: int | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Tokens until the generator is closed, as vLLM's client; NaN where the engine has NaN."""
        name = None if lora_request is None else lora_request.lora_name
        self.probes.append(name)
        mine = len(self.probes)
        overflows = self.base_overflows if name is None else name in self.overflowing
        self.running[mine], nan = self.cache.take(nan=overflows)
        try:
            while True:
                await asyncio.sleep(0)
                if self.held is not None and name is not None:
                    await self.held.wait()
                value = math.nan if nan else -1.0 if name is None or name in self.idle else -2.0
                logprobs = [{7: SimpleNamespace(logprob=value)}]
                yield SimpleNamespace(outputs=[SimpleNamespace(logprobs=logprobs)])
        finally:
            block = self.running.pop(mine)
            if block >= 0:
                self.cache.give_back(block)

    async def encode(
        self, prompt: Any, pooling_params: Any, request_id: str, *, lora_request: Any = None
    ) -> AsyncGenerator[Any, None]:
        """One output with a number for each label; the request has ended before it comes."""
        stream = self.generate(prompt, pooling_params, request_id, lora_request=lora_request)
        async with contextlib.aclosing(stream):
            (logprobs,) = (await anext(stream)).outputs[0].logprobs
        data = np.array([entry.logprob for entry in logprobs.values()])
        yield SimpleNamespace(outputs=SimpleNamespace(data=data))

    async def check_health(self) -> None:
        """The engine's process runs, whatever it computes."""

    async def pause_generation(self, *, mode: str, clear_cache: bool) -> None:
        """Freeze; what runs is preempted and keeps no block."""
        assert (mode, clear_cache) == ("keep", True)
        self.calls.append("pause")
        await asyncio.sleep(0.005)
        for request, block in self.running.items():
            if block >= 0:
                self.cache.give_back(block)
            self.running[request] = -1

    async def resume_generation(self) -> None:
        """Go on: what was preempted and not aborted is computed again."""
        self.calls.append("resume")
        for request in self.running:
            self.running[request], _ = self.cache.take(
                nan=self.probes[request - 1] in self.overflowing
            )

    async def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        """Run the worker extension's method."""
        assert method == "lorary_erase_kv_cache"
        if self.broken_rpc:
            raise RuntimeError("a worker is gone")
        self.calls.append("erase")
        self.cache.poisoned.clear()
        return [1 << 30]

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
        if key not in self.slots:
            if len(self.slots) >= self.max_loras:
                self.slots.popitem(last=False)
            self.filled.append(request.lora_name)
        self.slots[key] = None
        self.slots.move_to_end(key)
