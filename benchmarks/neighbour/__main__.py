"""How much slower one caller is answered while another sends the worst that it may.

    python -m benchmarks.neighbour [CLASS ...] [--rounds 3] [--json FILE] [--fuzz SECONDS]

A real vLLM server, two keys. The neighbour asks the same short question again and again, first
alone and then beside the attacker, class by class in one go; its seconds are compared, and its
answers. `--fuzz` sends random bodies near the bounds instead and prints those that were answered
with 5xx or that held the neighbour up.
"""

import argparse
import asyncio
import contextlib
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks.load import spread
from benchmarks.neighbour.attacks import AT_ONCE, CHAT, CLASSES, PREFETCH, Make
from benchmarks.neighbour.fuzz import body_near_the_bounds
from benchmarks.servers import Served, gated_vllm
from benchmarks.site import MODEL, one_adapter
from registry.model.access import Secret
from registry.model.catalog import Grant
from registry.model.keys import IssueKey
from registry.registry import Registry
from registry.store import LocalStore

SLOW_BODIES = "slow bodies"
QUESTION = {
    "model": MODEL, "max_tokens": 8, "temperature": 0,
    "messages": [{"role": "user", "content": "What is hypertension?"}],
}  # fmt: skip
SECONDS = 30.0
"""How long the neighbour waits for an answer; none within it counts as so long."""
HELD_UP = 10
"""Times its quiet median that an answer takes when a fuzzed body is told."""


@dataclass
class Found:
    """One class: the neighbour's seconds by round, and what the attacker was answered."""

    name: str
    quiet: list[list[float]] = field(default_factory=list)
    attacked: list[list[float]] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    different: int = 0
    """Answers of the neighbour that were not the quiet one's, or none."""

    @property
    def slowdowns(self) -> list[float]:
        """The worst answer beside the attacker over the quiet median, by round."""
        pairs = zip(self.quiet, self.attacked, strict=True)
        return [max(attacked) / median(quiet) for quiet, attacked in pairs]


class Neighbour:
    """Asks the same question, and notes how long it took and what was said."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self.said: str | None = None

    async def ask(self) -> tuple[float, bool]:
        """Seconds, and whether the answer was as ever; no answer counts as one that came last."""
        began = time.perf_counter()
        try:
            reply = await self._client.post(CHAT, json=QUESTION, timeout=SECONDS)
            said = reply.json()["choices"][0]["message"]["content"] if reply.is_success else None
        except httpx.HTTPError:
            said = None
        if self.said is None:
            self.said = said
        took = time.perf_counter() - began
        return (took, said == self.said) if said is not None else (max(took, SECONDS), False)


async def attack(client: httpx.AsyncClient, make: Make, statuses: Counter[int]) -> None:
    """Until cancelled: `AT_ONCE` requests under way, each with a new body."""
    numbers = iter(range(random.randrange(1_000), 10**9))

    async def keep_sending() -> None:
        while True:
            path, body = make(next(numbers))
            try:
                asked = body if path == PREFETCH else {"model": MODEL} | body
                reply = await client.post(path, json=asked)
                statuses[reply.status_code] += 1
            except httpx.HTTPError:
                statuses[0] += 1
            await asyncio.sleep(0.01)

    await asyncio.gather(*(keep_sending() for _ in range(AT_ONCE)))


async def drip(client: httpx.AsyncClient, statuses: Counter[int]) -> None:
    """Until cancelled: two hundred bodies that come byte by byte."""

    async def bytes_() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(1)

    async def keep_sending() -> None:
        while True:
            try:
                reply = await client.post(CHAT, content=bytes_())
                statuses[reply.status_code] += 1
            except httpx.HTTPError:
                statuses[0] += 1

    await asyncio.gather(*(keep_sending() for _ in range(200)))


async def measure(served: Served, headers: dict[str, str], names: list[str], rounds: int,
                  asks: int) -> list[Found]:  # fmt: skip
    """Every class, `rounds` times; the neighbour asks `asks` times alone and beside each."""
    found = {name: Found(name) for name in names}
    limits = httpx.Limits(max_connections=300)
    async with httpx.AsyncClient(base_url=served.url, headers=headers) as quiet_client:
        neighbour = Neighbour(quiet_client)
        for _ in range(3):
            await neighbour.ask()
        usual = median([(await neighbour.ask())[0] for _ in range(2 * asks)])
        for _ in range(rounds):
            for name in names:
                one = found[name]
                await settle(neighbour, usual)
                one.quiet.append([(await neighbour.ask())[0] for _ in range(asks)])
                async with httpx.AsyncClient(
                    base_url=served.url, headers=served.headers, timeout=300, limits=limits
                ) as client:
                    attacker = asyncio.create_task(
                        drip(client, one.statuses)
                        if name == SLOW_BODIES
                        else attack(client, CLASSES[name], one.statuses)
                    )
                    await asyncio.sleep(0.5)
                    answers = [await neighbour.ask() for _ in range(asks)]
                    one.attacked.append([seconds for seconds, _ in answers])
                    one.different += sum(not same for _, same in answers)
                    attacker.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await attacker
                print(line(one), flush=True)
    return list(found.values())


async def settle(neighbour: Neighbour, usual: float) -> None:
    """Wait until the server answers as usual again, at most half a minute or so."""
    for _ in range(30):
        if (await neighbour.ask())[0] < 1.2 * usual:
            return
        await asyncio.sleep(0.5)


def line(one: Found) -> str:
    """One class in a line."""
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(one.statuses.items()))
    quiet = [1000 * seconds for seconds in one.quiet[-1]]
    beside = [1000 * seconds for part in one.attacked for seconds in part]
    return (
        f"  {one.name:24} quiet {median(quiet):5.0f} ms, beside it {median(beside):6.0f}, "
        f"worst {max(beside):6.0f}; slowdown {spread(one.slowdowns, '.1f')}; "
        f"other or no answers {one.different}; attacker got {statuses or 'no answer yet'}"
    )


async def fuzz(served: Served, headers: dict[str, str], seconds: float, seed: int) -> list[Any]:
    """Random bodies near the bounds; those answered with 5xx, or that held the neighbour up."""
    choose = random.Random(seed)
    bad: list[Any] = []
    sent: Counter[int] = Counter()
    deadline = time.monotonic() + seconds
    async with (
        httpx.AsyncClient(base_url=served.url, headers=headers) as quiet_client,
        httpx.AsyncClient(base_url=served.url, headers=served.headers, timeout=60) as client,
    ):
        neighbour = Neighbour(quiet_client)
        quiet = median([(await neighbour.ask())[0] for _ in range(5)])
        while time.monotonic() < deadline:
            path, body = body_near_the_bounds(choose)
            if path != PREFETCH:
                body["model"] = MODEL
            sending = asyncio.create_task(client.post(path, json=body))
            await asyncio.sleep(0.05)
            took, same = await neighbour.ask()
            status = 0
            with contextlib.suppress(httpx.HTTPError, TimeoutError):
                status = (await asyncio.wait_for(sending, 5)).status_code
            sent[status] += 1
            if status >= 500 or took > HELD_UP * quiet or not same:
                fields = {name: str(value)[:200] for name, value in body.items()}
                bad.append({"status": status, "took": took, "path": path, "fields": fields})
                print(f"  {status} {took:.2f} s {path} {json.dumps(fields)[:600]}", flush=True)
    print(
        f"\n  sent {sum(sent.values())}: {dict(sent)}; quiet median {quiet:.2f} s; bad {len(bad)}"
    )
    return bad


def main() -> None:
    """Start the server, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("classes", nargs="*", help="; ".join([*CLASSES, SLOW_BODIES]))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--asks", type=int, default=4)
    parser.add_argument("--fuzz", type=float, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    names = wanted.classes or [*CLASSES, SLOW_BODIES]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        site = one_adapter(Path(folder))
        store = LocalStore(Path(folder) / "store")
        registry, secret = Registry(store), Secret.generate()
        issuer = next(iter(registry.catalog.keys))
        grants = (Grant("infer", "bench"),)
        registry.execute(IssueKey(secret.id, "neighbour", secret.digest, grants), issuer)
        registry.close()
        served = gated_vllm(running, site)
        headers = {"Authorization": f"Bearer {secret.text}"}
        if wanted.fuzz:
            figures = asyncio.run(fuzz(served, headers, wanted.fuzz, wanted.seed))
        else:
            found = asyncio.run(measure(served, headers, names, wanted.rounds, wanted.asks))
            print("\nThe worst answer of a neighbour over its quiet median, by class")
            for one in sorted(found, key=lambda one: -max(one.slowdowns)):
                print(line(one))
            figures = [
                asdict(one) | {"statuses": dict(one.statuses), "slowdowns": one.slowdowns}
                for one in found
            ]
    if wanted.json:
        wanted.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
