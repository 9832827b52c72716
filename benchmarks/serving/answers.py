"""Whether the adapter that was named answers: the same questions on `lorary serve` and bare vLLM.

Three adapters and the base model get the same prompts, first alone and then all at once. A first
token is the model's answer to the prompt alone; later ones may differ where two are as likely, for
the engine's 16-bit sums depend on what shares a batch. Raises if an answer is another adapter's.
"""

import asyncio
import itertools
from typing import Any

import aiohttp

from benchmarks.servers import Served
from benchmarks.serving.pair import Pair
from benchmarks.serving.streams import Ask, client

TOKENS = 12

Answers = dict[tuple[str, int], str]


def measure(pair: Pair, *, quick: bool) -> dict[str, Any]:
    """How many answers are equal, and how many begin alike."""
    prompts = range(4 if quick else 8)
    names = [pair.setting.base.name, *(pair.library.name(number) for number in range(3))]
    alone = {
        served.name: asyncio.run(_ask(served, names, prompts, at_once=1))
        for served in (pair.gated, pair.bare)
    }
    together = asyncio.run(_ask(pair.gated, names, prompts, at_once=32))
    ours, bare = alone[pair.gated.name], alone[pair.bare.name]
    compared = {
        "ours and bare vLLM's, alone": _compare(ours, bare),
        "ours, alone and at once": _compare(ours, together),
    }
    print(f"\nAnswers of the base model and three adapters to {len(prompts)} prompts")
    for title, (equal, begun, count) in compared.items():
        print(f"  {title:28} {equal} of {count} equal, {begun} begin alike")
    differing = [
        sum(ours[one, prompt] != ours[other, prompt] for prompt in prompts)
        for one, other in itertools.combinations(names, 2)
    ]
    swapped = [
        (name, prompt)
        for name, prompt in together
        if any(together[name, prompt] == ours[other, prompt] for other in names if other != name)
        and together[name, prompt] != ours[name, prompt]
    ]
    print(f"  prompts that two models answer differently: {min(differing)} to {max(differing)}")
    if swapped:
        raise SystemExit(f"answers of another adapter: {swapped}")
    return {"compared": compared, "differing": differing}


async def _ask(served: Served, names: list[str], prompts: range, *, at_once: int) -> Answers:
    limit = asyncio.Semaphore(at_once)
    async with client() as connection:

        async def one(name: str, prompt: int) -> tuple[tuple[str, int], str]:
            async with limit:
                return (name, prompt), await _answer(connection, served, name, prompt)

        both = itertools.product(names, prompts)
        return dict(await asyncio.gather(*(one(name, prompt) for name, prompt in both)))


async def _answer(connection: aiohttp.ClientSession, served: Served, name: str, prompt: int) -> str:
    text = Ask(name, TOKENS, 24, seed=prompt).prompt
    body = {"model": name, "prompt": text, "max_tokens": TOKENS, "temperature": 0}
    url = f"{served.url}/v1/completions"
    async with connection.post(url, json=body, headers=served.headers) as reply:
        found = await reply.json()
        if reply.status != 200:
            raise RuntimeError(f"{name}: {reply.status} {found}")
        return str(found["choices"][0]["text"])


def _compare(one: Answers, other: Answers) -> tuple[int, int, int]:
    """Equal answers, answers whose first characters are, and how many there are."""
    equal = sum(one[key] == other[key] for key in one)
    return equal, sum(one[key][:3] == other[key][:3] for key in one), len(one)
