"""vLLM's engine over virtual time, by the step times that were measured of one.

vLLM 0.32 is modelled by its rules: a step decodes every running request and adds waiting ones in
their order, skipping those whose adapter would be one more than there are slots
(`v1/core/sched/scheduler.py`); calls of the engine client are carried out between two steps
(`v1/engine/core.py`); the worker's adapters are an LRU of host memory and one of slots
(`tests/support/vllm_engine.py`).
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from serving.tiers.recovery import PROMPT_TOKENS
from tests.support.vllm_engine import LoRARequest, VllmEngine


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What was measured of an engine; seconds, tokens and counts."""

    decode: tuple[tuple[int, float], ...]
    """A step that only decodes, with one adapter, by the requests that run."""
    adapter: float
    """A step, more for each further adapter in it."""
    prompt_step: float
    """A step with new prompts, at least."""
    prompt_token: float
    """The same, for each of its tokens."""
    load: float
    """The engine's load of an adapter, in which no step runs."""
    activate: float
    """A slot's filling from host memory; not measured but assumed."""
    download: float
    verify: float
    request: float
    """The API process, for each request."""
    prompt: int
    tokens: int
    slots: int
    places: int
    budget: int
    """--max-num-batched-tokens"""
    patience: float
    """LORARY_BATCHING_SECONDS"""


H200 = Hardware(
    decode=((1, 6.88e-3), (16, 6.95e-3), (64, 8.22e-3), (256, 16.3e-3)), adapter=0.398e-3,
    prompt_step=52e-3, prompt_token=36.6e-6, load=27e-3, activate=5e-3, download=11e-3, verify=3e-3,
    request=2e-3, prompt=196, tokens=64, slots=32, places=256, budget=8192, patience=0.25,
)  # fmt: skip
"""An 8B model in bf16, adapters of 6.8 MB; vLLM 0.32 with CUDA graphs for decoding only."""
CPU = Hardware(
    decode=((1, 86e-3), (3, 128e-3), (16, 290e-3)), adapter=1e-3, prompt_step=0.0,
    prompt_token=4.5e-3, load=71e-3, activate=5e-3, download=92e-3, verify=15e-3, request=3e-3,
    prompt=11, tokens=48, slots=4, places=8, budget=96, patience=0.0,
)  # fmt: skip
"""Two cores, SmolLM2-135M, adapters of 19.5 MB (docs/explanation/serving-performance.md)."""
HARDWARE = {
    "h200": H200,
    "h200-84mb": replace(H200, load=137e-3, activate=10e-3, download=110e-3, verify=110e-3),
    "cpu": CPU,
}


@dataclass(eq=False)
class Job:
    """A request in the engine."""

    lora: LoRARequest | None
    prompt: int
    left: int
    first: "asyncio.Future[float]" = field(default_factory=asyncio.Future)
    done: "asyncio.Future[float]" = field(default_factory=asyncio.Future)


class SimulatedEngine(VllmEngine):
    """vLLM's engine core and its client, over virtual time."""

    def begin(self, hardware: Hardware, *, trials: bool) -> None:
        """Start to step. trials: whether a trial takes part in steps or costs nothing."""
        self.hardware, self.trials = hardware, trials
        self.max_loras, self.max_cpu_loras = hardware.slots, hardware.places
        self.counts: Counter[str] = Counter()
        self._calls: deque[tuple[Any, asyncio.Future[bool]]] = deque()
        self._jobs: deque[Job] = deque()
        self._active: list[Job] = []
        self._wake = asyncio.Event()
        xs, ys = zip(*hardware.decode, strict=True)
        self._decode = [float(np.interp(n, xs, ys)) for n in range(1025)]
        self.stepping = asyncio.create_task(self._run())

    def submit(self, lora: LoRARequest | None, prompt: int, tokens: int) -> Job:
        """Queue a request."""
        job = Job(lora, prompt, tokens)
        self._jobs.append(job)
        self._wake.set()
        return job

    async def add_lora(self, lora_request: LoRARequest) -> bool:
        """Load an adapter between two steps."""
        return await self._call(lora_request)

    async def remove_lora(self, lora_id: int) -> bool:
        """Drop one between two steps."""
        return await self._call(lora_id)

    async def _call(self, what: LoRARequest | int) -> bool:
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._calls.append((what, done))
        self._wake.set()
        return await done

    async def generate(
        self,
        prompt: Any,
        sampling_params: Any,
        request_id: str,
        *,
        lora_request: Any = None,
        data_parallel_rank: int | None = None,
    ) -> AsyncGenerator[Any, None]:
        """A trial: its first token."""
        del prompt, sampling_params, request_id, data_parallel_rank
        if self.trials:
            job = self.submit(lora_request, PROMPT_TOKENS, 2)
            await job.first
            self.counts["trials"] += 1
        logprob = SimpleNamespace(logprob=-1.0 if lora_request is None else -2.0)
        yield SimpleNamespace(outputs=[SimpleNamespace(logprobs=[{7: logprob}])])

    async def _run(self) -> None:
        while True:
            if not (self._calls or self._jobs or self._active):
                self._wake.clear()
                await self._wake.wait()
            while self._calls:
                what, done = self._calls.popleft()
                if isinstance(what, LoRARequest):
                    await self._spend(self.hardware.load, "loads")
                    self._add(what)
                    done.set_result(True)
                else:
                    self.slots.pop(what, None)
                    done.set_result(self.host.pop(what, None) is not None)
            tokens = self._schedule()
            if self._active:
                await self._step(tokens)

    def _schedule(self) -> int:
        """Add waiting jobs to those that run; the tokens of new prompts."""
        running = {job.lora for job in self._active}
        budget = room = self.hardware.budget - len(self._active)
        skipped = []
        while self._jobs and budget > 0:
            job = self._jobs.popleft()
            if job.lora not in running and len(running) >= self.max_loras:
                skipped.append(job)
                continue
            taken = min(job.prompt, budget)
            job.prompt -= taken
            budget -= taken
            if job.prompt:
                self._jobs.appendleft(job)
            else:
                running.add(job.lora)
                self._active.append(job)
        self._jobs.extendleft(reversed(skipped))
        return room - budget

    async def _step(self, tokens: int) -> None:
        loras = {job.lora for job in self._active if job.lora}
        for lora in sorted(loras, key=lambda lora: lora.lora_name):
            if lora.lora_int_id not in self.host:
                await self._spend(self.hardware.load, "loads")
            elif lora.lora_int_id not in self.slots:
                await self._spend(self.hardware.activate, "activations")
            self._add(lora)
        seconds = self._decode[len(self._active)]
        if tokens:
            of_tokens = self.hardware.prompt_token * tokens
            if self.hardware.prompt_step:
                seconds = max(self.hardware.prompt_step, of_tokens, seconds)
            else:
                seconds += of_tokens
            self.counts["prompt steps"] += 1
        seconds += self.hardware.adapter * max(0, len(loras) - 1)
        await self._spend(seconds, "steps")
        self.counts["adapters"] += len(loras)
        self.counts["sequences"] += len(self._active)
        now = asyncio.get_running_loop().time()
        for job in self._active:
            job.left -= 1
            if not job.first.done():
                job.first.set_result(now)
            if not job.left:
                job.done.set_result(now)
        self._active = [job for job in self._active if job.left]

    async def _spend(self, seconds: float, what: str) -> None:
        self.counts[what] += 1
        await asyncio.sleep(seconds)
