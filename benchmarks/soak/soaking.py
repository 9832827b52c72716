"""One soak from its set-up to its report."""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from adapters.home import SMALL_MODEL, default_model
from adapters.small_model import build
from benchmarks.soak.callers import PROMPTS, TOKENS, Callers
from benchmarks.soak.greedy import Greedy
from benchmarks.soak.report import Report
from benchmarks.soak.site import Replica, Site
from benchmarks.soak.troubles import Troubles, adapter_size
from benchmarks.soak.truth import Span, Truth
from benchmarks.soak.watching import Watch
from serving.tiers.warming import PATIENCE_SECONDS
from tests.support.words import Lexicon, lexicon

Say = Callable[[str], None]
LONG_ANSWER = 64
"""Tokens of an answer of the key that meets its limit of tokens."""
REJOIN_SECONDS = 3.0
"""How long callers are at work again before the last replica is told to end."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long, how much, how often. Times in seconds."""

    seconds: float
    vllm: int = 1
    light: int = 2
    adapters: int = 2
    """In each of three domains."""
    versions: int = 3
    """Of each adapter, at the start."""
    on_disk: int = 8
    """Versions for which a replica's disk has room."""
    words: int = 40
    bound: float = 2.0
    """Within which a replica must know what was committed."""
    move_every: float = 1.0
    revise_every: float = 6.0
    outage_every: float = 34.0
    outage_lasts: float = 6.0
    restart_every: float = 12.0
    restart_vllm: bool = False
    sample_every: float = 5.0
    callers: int = 4
    """Of each vLLM; a light replica has two."""


SHORT = Plan(seconds=80)


def long(minutes: float, vllm: int) -> Plan:
    """The plan for a soak of many minutes."""
    return Plan(
        seconds=60 * minutes,
        vllm=vllm,
        light=max(1, 3 - vllm),
        adapters=3,
        versions=4,
        callers=2,
        on_disk=14,
        words=400,
        revise_every=12,
        outage_every=240,
        outage_lasts=20,
        restart_every=100,
        restart_vllm=vllm > 1,
    )


def soak(plan: Plan, say: Say = print) -> Report:
    """Set everything up, soak it, end it, and tell how it went."""
    build(default_model())
    with tempfile.TemporaryDirectory() as text, contextlib.ExitStack() as stack:
        folder = Path(text)
        say("starting the object store, the registry and the replicas")
        words = lexicon_of(plan)
        size = adapter_size(words, folder)
        site = Site(folder, vllm=plan.vllm, light=plan.light, cache_bytes=plan.on_disk * size)
        stack.callback(site.close)
        site.registry.add_base(words.base)
        return asyncio.run(_soak(plan, site, words, say))


def lexicon_of(plan: Plan) -> Lexicon:
    """Words for as many versions as the plan may publish."""
    return lexicon(default_model(), SMALL_MODEL, plan.words)


async def _soak(plan: Plan, site: Site, words: Lexicon, say: Say) -> Report:
    truth = Truth(plan.bound, PATIENCE_SECONDS)
    troubles = Troubles(site, words, truth, adapters=plan.adapters)
    for replica in site.replicas:
        replica.start()
    await troubles.populate(plan.versions)
    await asyncio.gather(*(replica.ready() for replica in site.replicas))
    alone = await _alone(site, troubles, say)
    callers = Callers(truth, troubles.population, site.replicas)
    greedy = [
        Greedy(site.new_key(f"greedy-{tokens}"), tokens, site.base) for tokens in (1, LONG_ANSWER)
    ]
    watch = Watch(site.replicas, site.operator, seconds=plan.sample_every, tensors=words.tensors)
    restarted = [r for r in site.replicas[1:] if plan.restart_vllm or r.kind == "light"]
    over, enough = callers.over, asyncio.Event()
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for replica in site.replicas:
            many, pause = (plan.callers, 0.05) if replica.kind == "vllm" else (2, 0.4)
            for seed in range(many):
                key = site.new_key(f"caller-{replica.name}-{seed}")
                group.create_task(callers.run(replica, seed + 100 * replica.port, pause, key))
        group.create_task(watch.run(over))
        greed = [group.create_task(one.run(site.replicas[0], enough)) for one in greedy]
        troubled = [
            group.create_task(troubles.moves(over, plan.move_every)),
            group.create_task(troubles.revisions(over, plan.revise_every)),
            group.create_task(troubles.outages(over, plan.outage_every, plan.outage_lasts)),
            group.create_task(troubles.restarts(over, restarted, plan.restart_every)),
        ]
        while (now := time.monotonic() - began) < plan.seconds:
            say(_progress(now, plan.seconds, callers, troubles))
            await asyncio.sleep(min(5.0, plan.seconds - now))
            if any(task.done() and task.exception() for task in troubled):
                break
        callers.asking.clear()
        enough.set()
        await asyncio.gather(*greed)
        watch.held = await watch.until_idle(site.replicas[0])
        callers.asking.set()
        await asyncio.sleep(REJOIN_SECONDS)
        await _last_departure(site.replicas[0], troubles)
        over.set()
    return Report(
        plan.seconds, began, site, troubles.happened, callers.tally, greedy, watch, truth, alone
    )


async def _last_departure(replica: Replica, troubles: Troubles) -> None:
    """The replica that was never restarted is ended at last, with all its callers at work."""
    replica.life.told_to_end.append(Span(time.monotonic()))
    troubles.happened.ending_seconds.append(await replica.terminate())
    troubles.happened.terminated += 1


async def _alone(site: Site, troubles: Troubles, say: Say) -> int:
    """Ask each version of the first replica, one at a time; how many said their own word."""
    headers = {"Authorization": f"Bearer {site.app}"}
    right = 0
    population = troubles.population
    async with httpx.AsyncClient(headers=headers, timeout=180) as client:
        for number, (ref, word) in enumerate(population.words.items()):
            body = {"model": ref, "max_tokens": TOKENS, "temperature": 0, "prompt": PROMPTS[0]}
            reply = await client.post(f"{site.replicas[0].url}/v1/completions", json=body)
            reply.raise_for_status()
            right += reply.json()["choices"][0]["text"].strip() == (word * TOKENS).strip()
            say(
                f"asked {number + 1} of {len(population.words)} versions alone: {right} said theirs"
            )
    return right


def _progress(now: float, of: float, callers: Callers, troubles: Troubles) -> str:
    tally, happened = callers.tally, troubles.happened
    latest = f" (the last: {tally.broken[-1][0]})" if tally.broken else ""
    return (
        f"{now:5.0f} of {of:.0f} s: {tally.verdicts.total():,} answers judged, "
        f"{len(tally.broken)} wrong{latest}; {happened.moves} moves, {happened.revoked} revoked, "
        f"{happened.outages} outages, {happened.terminated}+{happened.killed} restarts"
    )
