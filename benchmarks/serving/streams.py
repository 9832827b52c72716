"""Streamed completions as a client sees them: when each token came."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import httpx

from benchmarks.servers import Served

SETTLE = 1.5
"""Seconds before a measurement: vLLM's processes go on spinning for one after their last message,
and those of the other server would take this one's core."""
PROMPT = "What is hypertension, and how is it treated?"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: which adapter, how many tokens exactly."""

    model: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """When it was asked for, and when each of its tokens came; seconds of one clock."""

    asked: float
    came: tuple[float, ...]

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.came[0] - self.asked

    @property
    def gaps(self) -> list[float]:
        """Seconds between tokens."""
        return [b - a for a, b in zip(self.came, self.came[1:], strict=False)]


@dataclass(frozen=True, slots=True)
class Run:
    """A load's answers and how long all of it took."""

    seconds: float
    answers: tuple[Answer, ...]

    @property
    def tokens_per_second(self) -> float:
        """Over the whole load."""
        return sum(len(answer.came) for answer in self.answers) / self.seconds

    @property
    def firsts(self) -> list[float]:
        """Each answer's seconds to the first token."""
        return [answer.first for answer in self.answers]


def client(served: Served, most: int = 64) -> httpx.AsyncClient:
    """A client of one of the servers, with its key."""
    return httpx.AsyncClient(
        base_url=served.url,
        headers=served.headers,
        timeout=600,
        limits=httpx.Limits(max_connections=most),
    )


async def stream(connection: httpx.AsyncClient, ask: Ask) -> Answer:
    """Ask once; raises unless the answer is 200 and has every token."""
    body = {
        "model": ask.model,
        "prompt": PROMPT,
        "max_tokens": ask.tokens,
        "min_tokens": ask.tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }
    came: list[float] = []
    asked = time.perf_counter()
    async with connection.stream("POST", "/v1/completions", json=body) as reply:
        if reply.status_code != 200:
            raise SystemExit(f"{ask.model}: {reply.status_code} {(await reply.aread())[:500]!r}")
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                if '"error"' in line:
                    raise SystemExit(f"{ask.model}: {line[:500]}")
                came.append(time.perf_counter())
    return Answer(asked, tuple(came))


async def load(served: Served, asks: Iterable[Ask], *, at_once: int) -> Run:
    """Callers that each ask, wait for the whole answer, and ask the next."""
    waiting = iter(asks)
    answers: list[Answer] = []
    async with client(served, at_once) as connection:

        async def caller() -> None:
            for ask in waiting:
                answers.append(await stream(connection, ask))

        await asyncio.sleep(SETTLE)
        began = time.perf_counter()
        async with asyncio.TaskGroup() as callers:
            for _ in range(at_once):
                callers.create_task(caller())
        return Run(time.perf_counter() - began, tuple(answers))


def run(served: Served, asks: Sequence[Ask], *, at_once: int) -> Run:
    """`load` from outside an event loop."""
    return asyncio.run(load(served, asks, at_once=at_once))
