"""Keys that ask for more than their limits, and what they got, counted by what came back."""

import asyncio
import contextlib
import time
from dataclasses import dataclass

import httpx

from benchmarks.soak.site import REQUESTS, TOKENS_A_MINUTE, Replica

AT_ONCE = 4
PAUSE_SECONDS = 0.25
"""After a refusal."""
SHORT_OF = 0.9
"""The share of its limit that a key which asks all the time gets at least."""


@dataclass
class Greedy:
    """One key at its limit on one replica: requests if its answers are short, else tokens."""

    key: str
    tokens: int
    """That it asks for in each answer."""
    model: str
    began: float = 0.0
    ended: float = 0.0
    answered: int = 0
    used: int = 0
    """Tokens by vLLM's `usage`."""
    refused: int = 0

    async def run(self, replica: Replica, over: asyncio.Event) -> None:
        """Ask without a pause until it is over."""
        headers = {"Authorization": f"Bearer {self.key}"}
        async with httpx.AsyncClient(headers=headers, timeout=180) as client:
            self.began = time.monotonic()
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(self._ask(client, replica, over))

    async def _ask(self, client: httpx.AsyncClient, replica: Replica, over: asyncio.Event) -> None:
        body = {"model": self.model, "prompt": "Say", "max_tokens": self.tokens,
                "min_tokens": self.tokens, "temperature": 0}  # fmt: skip
        while not over.is_set():
            with contextlib.suppress(httpx.HTTPError, KeyError):
                reply = await client.post(f"{replica.url}/v1/completions", json=body)
                if reply.status_code == 200:
                    self.answered += 1
                    self.used += reply.json()["usage"]["total_tokens"]
                    self.ended = time.monotonic()
                    continue
                self.refused += reply.status_code == 429
            await asyncio.sleep(PAUSE_SECONDS)

    @property
    def got(self) -> tuple[str, float, float]:
        """What is limited, what it got of it, and the most that its limit allows in that time."""
        minutes = (self.ended - self.began) / 60
        if self.tokens == 1:
            return "requests", self.answered, REQUESTS * (1 + minutes)
        return "tokens", self.used, TOKENS_A_MINUTE * (1 + minutes)
