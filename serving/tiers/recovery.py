"""Removes NaN from the engine's KV cache without ending anybody's request.

A request whose hidden states overflow writes NaN keys and values into its blocks of the KV cache.
vLLM 0.32 neither clears a block when it is freed nor when it is allocated again, and a block's
unused positions are masked by a multiplication: 0 times NaN is NaN. So the next request that gets
such a block is computed from NaN, writes more of it, and so on until the server restarts. What NaN
logits give is the token 0, which for many models ends the answer: it is empty.

`clean` freezes the engine between two steps, preempts every running request, erases the cache and
the prefix cache's index, and lets the engine continue: it computes the preempted requests' prefixes
anew. It uses vLLM's public engine client and the worker extension `serving.worker`.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from serving.errors import EngineFault
from serving.telemetry import access_log
from serving.telemetry.metrics import RECOVERIES

ERASE = "lorary_erase_kv_cache"
"""The method of `serving.worker.WorkerExtension`."""
ERASE_SECONDS = 60.0
"""How long an erasure may take; vLLM finishes the step that it is in first."""
ATTEMPTS = 3
"""How often the base model is tested after an erasure, each time after another one, before the
engine is given up: a request that is under way may bring NaN back once."""
PROBE_SECONDS = 30.0
"""How long the base model's test answer is awaited: a busy engine queues it behind others."""
PROMPT_TOKENS = 131
"""Length of a test prompt: above a block of the KV cache on a CPU, 128 tokens, so that a block is
filled and another is begun."""
PROBE_TOKENS = 64
"""Tokens that a test request asks for, so that it still runs while its first is judged."""
FIRST_ID = 100
"""The test prompt is this token and those that follow: ordinary tokens in any vocabulary."""
TOP = 5
"""Log-probabilities that are compared."""

T = TypeVar("T")
State = Literal["ok", "recovering", "failed"]
Distribution = Mapping[int, float]
"""Log-probabilities of the likeliest first tokens, by token."""


class EngineClient(Protocol):
    """What is used of vLLM's `EngineClient`."""

    def generate(
        self,
        prompt: Any,
        sampling_params: Any,
        request_id: str,
        *,
        lora_request: Any = None,
        data_parallel_rank: int | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Run a request; closing the generator aborts it."""

    def encode(
        self, prompt: Any, pooling_params: Any, request_id: str, *, lora_request: Any = None
    ) -> AsyncGenerator[Any, None]:
        """The same for an engine that classifies."""

    async def pause_generation(self, *, mode: Any, clear_cache: bool) -> None:
        """Stop stepping; `keep` with `clear_cache` preempts what runs and empties the cache. This
        and the two below act on every data-parallel rank, and raise what any of them raises."""

    async def resume_generation(self) -> None:
        """Go on."""

    async def collective_rpc(self, method: str) -> list[Any]:
        """Call a method on every worker."""


@dataclass(frozen=True)
class Probe:
    """How the engine is asked for the first token of the test prompt."""

    sampling: Any
    """vLLM's `SamplingParams`: greedy, `TOP` log-probabilities, `PROBE_TOKENS`."""
    prompt_tokens: int = PROMPT_TOKENS

    def ask(
        self, client: EngineClient, request_id: str, lora_request: Any, rank: int
    ) -> AsyncGenerator[Any, None]:
        """Run the request on a data-parallel rank; closing the generator aborts it."""
        return client.generate(
            self.prompt,
            self.sampling,
            request_id,
            lora_request=lora_request,
            data_parallel_rank=rank,
        )

    def read(self, output: Any) -> Distribution | None:
        """The numbers in one of the engine's outputs; None if it has none yet."""
        if not output.outputs[0].logprobs:
            return None
        return {t: v.logprob for t, v in output.outputs[0].logprobs[0].items()}

    @property
    def prompt(self) -> dict[str, list[int]]:
        """The prompt as vLLM takes it."""
        return {"prompt_token_ids": list(range(FIRST_ID, FIRST_ID + self.prompt_tokens))}


@dataclass(frozen=True)
class HeadProbe(Probe):
    """The same for an engine that makes no text: the logits of the test prompt's labels, or the
    numbers of its embedding.

    Such a request ends with its step. Until the cache is erased, another one may be given its
    blocks; NaN in them makes that one's logits NaN, too, which vLLM never sends.
    """

    def ask(
        self, client: EngineClient, request_id: str, lora_request: Any, rank: int
    ) -> AsyncGenerator[Any, None]:
        """As `Probe.ask`; `sampling` is vLLM's `PoolingParams`, and there is one rank only."""
        del rank
        return client.encode(self.prompt, self.sampling, request_id, lora_request=lora_request)

    def read(self, output: Any) -> Distribution | None:
        """The numbers by their place."""
        return dict(enumerate(output.outputs.data.tolist()))


class Recovery:
    """The state of one engine's KV cache. Use it from one event loop."""

    def __init__(
        self, client: EngineClient, probe: Probe, give_up: Callable[[], None], ranks: int = 1
    ) -> None:
        """give_up: ends this server, once the engine cannot be repaired. ranks: data-parallel ones
        of the engine; all of them are erased together."""
        self.state: State = "ok"
        self._client = client
        self._probe = probe
        self._give_up = give_up
        self._ranks = range(ranks)
        self._one = asyncio.Lock()
        self._begun = self._asked = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    def check(self) -> None:
        """Raises `EngineFault` once the engine cannot be repaired."""
        if self.state == "failed":
            raise EngineFault

    async def first_token(self, lora_request: Any = None, rank: int = 0) -> Distribution | None:
        """The first token's distribution for the test prompt; None if it has NaN or infinity.

        In that case nothing of it is left in the engine when this returns: the request is aborted
        while the engine is frozen and before its blocks could be given to another.
        """
        return await self._whole(self._first_token(lora_request, rank))

    async def clean(self, *, test: bool = True) -> None:
        """Remove NaN from the cache; calls that wait for the same erasure to begin share it.

        test: also test the base model, on every rank. Raises `EngineFault` if the engine cannot be
        repaired; the server then ends itself.
        """
        await self._whole(self._clean(self._begun + 1, test=test))

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """The outcome of `work`, which goes on though its caller leaves: a frozen engine must be
        set going again."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _first_token(self, lora_request: Any, rank: int) -> Distribution | None:
        self._asked += 1
        probe = self._probe
        stream = probe.ask(self._client, f"lorary-probe-{self._asked}", lora_request, rank)
        async with contextlib.aclosing(stream):
            async for output in stream:
                found = probe.read(output)
                if found is None:
                    continue
                if all(map(math.isfinite, found.values())):
                    return found
                break
            async with self._one:
                self.check()
                await self._erase(stream)
        return None

    async def _base_token(self, rank: int) -> Distribution | None:
        return await self.first_token(rank=rank)

    async def _clean(self, wanted: int, *, test: bool) -> None:
        async with self._one:
            self.check()
            if self._begun >= wanted:
                return
            await self._erase()
        if not test:
            return
        for _ in range(ATTEMPTS):
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    found = await asyncio.gather(*map(self._base_token, self._ranks))
                    if None not in found:
                        return
            except TimeoutError:
                access_log.write("base_not_tested", reason="the engine is busy")
                return
        self._fail("the base model's logits are not finite")
        raise EngineFault

    async def _erase(self, dropped: AsyncGenerator[Any, None] | None = None) -> None:
        """Freeze the engine, erase its cache, let it go on. dropped: a request to abort."""
        self._begun += 1
        self.state = "recovering"
        RECOVERIES.inc()
        try:
            async with asyncio.timeout(ERASE_SECONDS):
                await self._client.pause_generation(mode="keep", clear_cache=True)
                if dropped is not None:
                    await dropped.aclose()
                erased = await self._client.collective_rpc(ERASE)
                await self._client.resume_generation()
        except Exception as error:
            access_log.failed("kv cache recovery", error)
            self._fail("the KV cache could not be erased")
            raise EngineFault from error
        self.state = "ok"
        access_log.write("kv_cache_erased", bytes=sum(erased))

    def _fail(self, reason: str) -> None:
        if self.state == "failed":
            return
        self.state = "failed"
        access_log.write("engine_failed", reason=reason)
        self._give_up()
