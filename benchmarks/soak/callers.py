"""Callers: each asks one replica after the other, in every way, and has each answer judged."""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.soak.site import Replica
from benchmarks.soak.truth import GOOD, Asked, Truth, judge

PROMPTS = (
    "A fever of forty degrees means",
    "The tenant may terminate this lease if",
    "Rates fell, so the bank",
    "Say what you know about almonds.",
)
TOKENS = 4
TIMEOUT = 180.0
LEAVING = 0.5
"""The share of requests whose caller leaves, whatever it is waiting for."""


@dataclass
class Population:
    """What may be asked for now."""

    names: list[str]
    """Aliases in every form, and pinned names."""
    words: dict[str, str]
    """By pinned name, the word that vLLM says with it."""
    weights: dict[str, str]
    """By pinned name, the SHA-256 of its weights, which a light engine says."""


@dataclass
class Tally:
    """What came of all requests."""

    verdicts: Counter[str] = field(default_factory=Counter)
    broken: list[tuple[str, Asked]] = field(default_factory=list)
    """Examples of verdicts that break a promise."""
    seconds: list[float] = field(default_factory=list)
    """From sending to the first byte, of right answers."""
    right_by: Counter[str] = field(default_factory=Counter)
    """Right answers by replica."""
    timeline: list[tuple[float, str]] = field(default_factory=list)
    left: int = 0
    """Requests that their caller gave up on purpose."""
    repeats: int = 0
    """Requests that were repeated elsewhere, as a client or a proxy does."""
    lost: int = 0
    """Requests that no replica answered, however often they were repeated."""

    def count(self, verdict: str, asked: Asked) -> None:
        """Note one judged request."""
        self.verdicts[verdict] += 1
        self.timeline.append((asked.answered, verdict))
        if verdict == "right":
            self.seconds.append(asked.answered - asked.sent)
            self.right_by[asked.replica] += 1
        elif verdict not in GOOD and len(self.broken) < 50:
            self.broken.append((verdict, asked))


class Callers:
    """The callers of one soak."""

    def __init__(self, truth: Truth, population: Population, replicas: list[Replica]) -> None:
        self.tally = Tally()
        self.over = asyncio.Event()
        self.asking = asyncio.Event()
        """Set while callers may send requests."""
        self.asking.set()
        self._truth = truth
        self._population = population
        self._replicas = replicas

    async def run(self, home: Replica, seed: int, pause: float, key: str) -> None:
        """Ask until it is over; mostly `home`, and others where it refuses or is away."""
        chance = random.Random(seed)
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(headers=headers, timeout=TIMEOUT) as client:
            while not self.over.is_set():
                await self.asking.wait()
                name = chance.choice(self._population.names)
                body = _body(chance, name)
                if chance.random() < LEAVING:
                    await self._leave(client, home, body, chance.expovariate(2))
                else:
                    await self._until_answered(client, home, chance, body)
                await asyncio.sleep(pause * chance.random() * 2)

    async def _until_answered(
        self, client: httpx.AsyncClient, home: Replica, chance: random.Random, body: dict[str, Any]
    ) -> None:
        """As a client with retries does: again, elsewhere, while there is no answer or a 503."""
        replica = home
        for attempt in range(40):
            verdict = await self._ask(client, replica, body)
            if verdict not in ("no answer", "shutting_down", "starting", "store away", "held back"):
                return
            if self.over.is_set() and attempt > 3:
                return
            self.tally.repeats += 1
            replica = chance.choice(self._replicas)
            await asyncio.sleep(min(1.0, 0.1 * attempt))
        self.tally.lost += 1

    async def _ask(self, client: httpx.AsyncClient, replica: Replica, body: dict[str, Any]) -> str:
        said: list[str] = []
        sent = time.monotonic()
        seen: dict[str, Any] = {"answered": sent}
        try:
            async with client.stream("POST", f"{replica.url}{_path(body)}", json=body) as reply:
                seen = {"answered": time.monotonic(), **_signature(reply)}
                if reply.status_code != 200:
                    seen["code"] = _code(await reply.aread())
                elif body["stream"]:
                    seen["broke_off"] = True
                    async for line in reply.aiter_lines():
                        seen["broke_off"] = _take(line, said, seen)
                else:
                    seen["broke_off"] = True
                    answer = json.loads(await reply.aread())
                    seen["broke_off"] = False
                    said.append(_text(answer["choices"][0]))
        except httpx.HTTPError as error:
            if "status" not in seen:
                seen = {"answered": time.monotonic(), "code": type(error).__name__}
        seen["ended"] = time.monotonic()
        asked = Asked(replica=replica.name, name=body["model"], sent=sent, **seen)
        if asked.status == 200:
            whole = not asked.broke_off
            right = self._is_said(replica, asked.version, "".join(said), whole=whole)
            asked = Asked(
                replica=replica.name, name=body["model"], sent=sent, right_words=right, **seen
            )
        if asked.code == "version_revoked" and asked.status == 200:
            verdict = "revoked"  # the policy ends streams whose version is revoked
        else:
            verdict = judge(self._truth, replica.life, asked)
        self.tally.count(verdict, asked)
        return verdict

    async def _leave(
        self, client: httpx.AsyncClient, replica: Replica, body: dict[str, Any], seconds: float
    ) -> None:
        """Close the connection after so many seconds, whatever has come by then."""
        self.tally.left += 1
        with contextlib.suppress(httpx.HTTPError, TimeoutError):
            async with asyncio.timeout(seconds):
                async with client.stream("POST", f"{replica.url}{_path(body)}", json=body) as reply:
                    await reply.aread()

    def _is_said(self, replica: Replica, version: str, text: str, *, whole: bool) -> bool:
        """Whether the text is what the version says, from its first letter to its last."""
        if replica.kind == "light":
            expected = self._population.weights.get(version, "")
        else:
            expected = self._population.words.get(version, "") * TOKENS
        if whole:
            return text.strip() == expected.strip()
        return expected.strip().startswith(text.strip())


def _body(chance: random.Random, name: str) -> dict[str, Any]:
    prompt = chance.choice(PROMPTS)
    body: dict[str, Any] = {
        "model": name,
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": chance.random() < 0.5,
    }
    if chance.random() < 0.5:
        body["prompt"] = prompt
    else:
        body["messages"] = [{"role": "user", "content": prompt}]
    return body


def _path(body: dict[str, Any]) -> str:
    return "/v1/completions" if "prompt" in body else "/v1/chat/completions"


def _signature(reply: httpx.Response) -> dict[str, Any]:
    return {
        "status": reply.status_code,
        "version": reply.headers.get("x-lorary-adapter", ""),
        "digest": reply.headers.get("x-lorary-digest", ""),
        "retry_after": "retry-after" in reply.headers,
    }


def _code(data: bytes) -> str:
    try:
        return str(json.loads(data)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return "no envelope"


def _take(line: str, said: list[str], seen: dict[str, Any]) -> bool:
    """Read one line of a stream; whether the stream still goes on."""
    if line == "data: [DONE]":
        return False
    if not line.startswith("data: "):
        return bool(seen["broke_off"])
    event = json.loads(line[6:])
    if "error" in event:
        seen["code"] = event["error"]["code"]
        return True
    said.extend(_text(choice) for choice in event["choices"])
    return True


def _text(choice: dict[str, Any]) -> str:
    """What a choice says: whole or in pieces, of a chat or not."""
    part: dict[str, Any] = choice.get("message") or choice.get("delta") or {}
    return str(part.get("content") or ("" if part else choice.get("text")) or "")
