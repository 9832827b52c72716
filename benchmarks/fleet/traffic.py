"""Closed-loop streams for adapters chosen with a Zipf law; what each saw."""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

TOKENS = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: what it asked, what came back, and when the first piece did (seconds)."""

    model: str
    at: float
    status: int
    served: str
    """Which version the answer says it is of."""
    first: float
    whole: float
    complete: bool

    @property
    def wrong(self) -> bool:
        """Whether it is an answer, and of another adapter than was asked for."""
        return self.status == 200 and not self.served.startswith(f"{self.model}@")


def zipf(count: int, exponent: float = 1.0) -> list[float]:
    """Weights by rank."""
    return [1 / rank**exponent for rank in range(1, count + 1)]


async def stream(
    client: httpx.AsyncClient, url: str, model: str, headers: dict[str, str]
) -> Answer:
    """Ask once, read the whole stream; a broken connection is status 0."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "What is hypertension?"}],
        "max_tokens": TOKENS,
        "stream": True,
        "temperature": 0,
    }
    began = time.perf_counter()
    status, served, first, complete = 0, "", 0.0, False
    try:
        async with client.stream(
            "POST", f"{url}/v1/chat/completions", json=body, headers=headers
        ) as reply:
            status, served = reply.status_code, reply.headers.get("x-lorary-adapter", "")
            async for line in reply.aiter_lines():
                if line.startswith("data: ") and not first:
                    first = time.perf_counter() - began
                complete = complete or line == "data: [DONE]"
    except httpx.TransportError:
        status = status or 0
    now = time.perf_counter()
    return Answer(model, now, status, served, first, now - began, complete)


async def load(
    url: str,
    models: Sequence[str],
    headers: dict[str, str],
    *,
    seconds: float,
    callers: int,
    seed: int,
    requests: int | None = None,
) -> list[Answer]:
    """Streams for `seconds`, or so many, `callers` at once. The same seed asks the same."""
    weights = zipf(len(models))
    deadline = time.monotonic() + seconds
    random_ = random.Random(seed)
    order = random_.choices(models, weights, k=requests or 100_000)
    remaining = iter(order)
    answers: list[Answer] = []

    async with httpx.AsyncClient(timeout=120) as client:

        async def caller() -> None:
            for model in remaining:
                if requests is None and time.monotonic() > deadline:
                    return
                answers.append(await stream(client, url, model, headers))
                if answers[-1].status != 200:
                    await asyncio.sleep(0.1)

        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
    return answers


def as_json(answers: Sequence[Answer]) -> str:
    """For a file."""
    return json.dumps([[a.model, a.status, a.first, a.whole] for a in answers])
