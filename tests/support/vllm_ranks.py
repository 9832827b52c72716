"""vLLM's data-parallel ranks behind one client, without vLLM.

Modelled on vLLM 0.32's `DPLBAsyncMPClient`: a call goes to every rank, what any of them raises is
raised at once while the others go on, and only what the first returned is returned. A request goes
to the rank that it names. Each rank keeps adapters in an order of its own.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from serving.tiers.engine import Engine
from serving.tiers.recovery import Probe, Recovery
from serving.tiers.trial import Trials
from serving.worker import WorkerExtension
from tests.support.vllm_engine import LoRARequest, VllmEngine


class Worker(WorkerExtension):
    """The last worker of one rank."""

    rank = 0
    parallel_config = SimpleNamespace(world_size=1)

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine

    def list_loras(self) -> set[int]:
        """As vLLM's worker."""
        return set(self._engine.host)


@dataclass
class VllmRanks:
    """Several engines, their common client and mapping of names."""

    count: int = 2
    lora_requests: dict[str, LoRARequest] = field(default_factory=dict)
    ranks: list[VllmEngine] = field(default_factory=list)
    asked: list[tuple[int | None, str | None]] = field(default_factory=list)
    """Rank and name of each request of the client."""
    given_up: int = 0

    def __post_init__(self) -> None:
        self.ranks = [VllmEngine(lora_requests=self.lora_requests) for _ in range(self.count)]

    def driven(self) -> Engine:
        """What drives them."""
        return Engine(self, self.lora_requests, LoRARequest, ranks=self.count, release_seconds=0.0)

    def tried(self) -> Trials:
        """What tries their adapters."""

        def give_up() -> None:
            self.given_up += 1

        recovery = Recovery(self, Probe(None), give_up, ranks=self.count)
        return Trials(recovery, self.lora_requests)

    def generate(
        self,
        prompt: Any,
        sampling_params: Any,
        request_id: str,
        *,
        lora_request: Any = None,
        data_parallel_rank: int | None = None,
    ) -> AsyncGenerator[Any, None]:
        """As the rank's own client; the first rank's if none is named."""
        self.asked.append((data_parallel_rank, lora_request and lora_request.lora_name))
        return self.ranks[data_parallel_rank or 0].generate(
            prompt, sampling_params, request_id, lora_request=lora_request
        )

    def encode(
        self, prompt: Any, pooling_params: Any, request_id: str, *, lora_request: Any = None
    ) -> AsyncGenerator[Any, None]:
        """On the first rank: vLLM's own takes none."""
        return self.ranks[0].encode(prompt, pooling_params, request_id, lora_request=lora_request)

    async def add_lora(self, lora_request: LoRARequest) -> bool:
        """Load an adapter on every rank."""
        calls = [rank.add_lora(lora_request) for rank in self.ranks]
        return (await asyncio.gather(*calls))[0]

    async def remove_lora(self, lora_id: int) -> bool:
        """Drop an adapter from every rank."""
        calls = [rank.remove_lora(lora_id) for rank in self.ranks]
        return (await asyncio.gather(*calls))[0]

    async def list_loras(self) -> set[int]:
        """The ids that the first rank holds."""
        return (await asyncio.gather(*[rank.list_loras() for rank in self.ranks]))[0]

    async def pause_generation(self, *, mode: str, clear_cache: bool) -> None:
        """Freeze every rank."""
        calls = [rank.pause_generation(mode=mode, clear_cache=clear_cache) for rank in self.ranks]
        await asyncio.gather(*calls)

    async def resume_generation(self) -> None:
        """Go on with every rank."""
        await asyncio.gather(*[rank.resume_generation() for rank in self.ranks])

    async def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        """Call a method on the workers of every rank."""
        return (await asyncio.gather(*[self._call(rank, method, args) for rank in self.ranks]))[0]

    async def _call(self, rank: VllmEngine, method: str, args: tuple[Any, ...]) -> list[Any]:
        if method == "lorary_erase_kv_cache":
            return await rank.collective_rpc(method)
        await asyncio.sleep(0)
        try:
            return [getattr(Worker(rank), method)(*args)]
        except Exception as error:
            raise Exception(  # noqa: TRY002 # as vLLM does
                f"Call to collective_rpc method failed: Worker failed with error '{error}', please "
                "check the stack trace above for the root cause"
            ) from error
