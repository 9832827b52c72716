"""What happens to the replicas meanwhile: aliases move, versions come and are revoked, the object
store goes away and comes back, replicas are restarted and killed."""

import asyncio
import contextlib
import hashlib
import math
import random
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Literal

import httpx

from adapters.errors import LoraryError
from adapters.names import AdapterRef
from benchmarks.soak.callers import Population
from benchmarks.soak.site import Replica, Site
from benchmarks.soak.truth import Span, Told, Truth
from registry.model.aliases import MoveAlias
from registry.model.base import Command
from registry.model.domains import CreateDomain, SetDefaultAdapter
from registry.model.policies import Policy
from registry.model.versions import RevokeVersion
from tests.support.words import Lexicon

DOMAINS = {"medical": "guarded", "legal": "free", "financial": "free"}
"""The medical domain's aliases are guarded: their targets are brought up before they answer."""
ALIASES = ("production", "next")
PROBE_SECONDS = 0.02


@dataclass
class Happened:
    """How often each thing happened, and what was measured."""

    moves: int = 0
    published: int = 0
    revoked: int = 0
    outages: int = 0
    terminated: int = 0
    killed: int = 0
    refused_commands: int = 0
    """Commands that the registry could not take, since the store was away."""
    revocation_seconds: dict[str, list[float]] = field(default_factory=dict)
    """By replica, from a revocation's acknowledgement until the replica refused the version."""
    ending_seconds: list[float] = field(default_factory=list)
    """From SIGTERM until the process had ended."""


class Troubles:
    """Causes all of it, and tells `truth` of it."""

    def __init__(self, site: Site, lexicon: Lexicon, truth: Truth, *, adapters: int) -> None:
        """adapters: how many there are in each domain."""
        self.happened = Happened()
        self.population = Population([], {}, {})
        self._site = site
        self._lexicon = lexicon
        self._truth = truth
        self._paths = [f"{d}/a{number}" for d in DOMAINS for number in range(adapters)]
        self._live: dict[str, list[int]] = {path: [] for path in self._paths}
        self._named: dict[str, int] = {}
        self._words = count()
        self._chance = random.Random(7)
        self._commanding = asyncio.Lock()
        """Held by commands, and by outages: so a command is never caught in an outage."""
        self._calm = asyncio.Lock()
        """Held by outages and restarts: a replica that starts must be able to read the store."""

    async def _execute(self, command: Command) -> None:
        await asyncio.to_thread(self._site.registry.execute, command)

    async def populate(self, versions: int) -> None:
        """`versions` of each adapter, and every alias moved to one of them."""
        for domain, kind in DOMAINS.items():
            guarded = ("production",) if kind == "guarded" else ()
            policy = Policy(guarded=guarded, approvals=0)
            await self._execute(CreateDomain(domain, policy))
        for path in self._paths:
            for _ in range(versions):
                await self._publish(path)
            for alias in ALIASES:
                await self._move(path, alias, self._chance.choice(self._live[path]))
        for domain in DOMAINS:
            await self._execute(SetDefaultAdapter(domain, "a0"))
        self._offer()

    async def moves(self, over: asyncio.Event, seconds: float) -> None:
        """Move one alias after the other."""
        while not await _over(over, seconds * self._chance.uniform(0.5, 1.5)):
            async with self._commanding:
                path = self._chance.choice(self._paths)
                await self._move(
                    path, self._chance.choice(ALIASES), self._chance.choice(self._live[path])
                )

    async def revisions(self, over: asyncio.Event, seconds: float) -> None:
        """Publish a version, and revoke an old one; sometimes one that an alias names."""
        while not await _over(over, seconds):
            path = self._chance.choice(self._paths)
            async with self._commanding:
                number = await self._publish(path)
            if number is None or await _over(over, self._truth.bound):
                continue
            self._offer()
            async with self._commanding:
                old = self._live[path][0]
                named = [a for a in ALIASES if self._named[f"{path}@{a}"] == old]
                if named and self._chance.random() < 0.7:
                    for alias in named:
                        await self._move(path, alias, number)
                    named = []
                await self._revoke(path, old)
            if named and not await _over(over, 2 * self._truth.bound):
                async with self._commanding:
                    for alias in named:
                        await self._move(path, alias, number)

    async def outages(self, over: asyncio.Event, every: float, last: float) -> None:
        """Stop the object store for a while, again and again."""
        while not await _over(over, every):
            async with self._calm, self._commanding:
                self._truth.outages.append(Span(time.monotonic()))
                await asyncio.to_thread(self._site.stop_s3)
                await _over(over, last)
                await asyncio.to_thread(self._site.start_s3)
                await self._commands_pass()
                outage = self._truth.outages[-1]
                self._truth.outages[-1] = Span(outage.began, time.monotonic())
                self.happened.outages += 1

    async def restarts(self, over: asyncio.Event, replicas: list[Replica], every: float) -> None:
        """End one replica after the other, each by SIGTERM and by SIGKILL in turn."""
        for turn in count():
            if await _over(over, every) or not replicas:
                return
            replica = replicas[turn % len(replicas)]
            hows: tuple[Literal["SIGTERM", "SIGKILL"], ...] = ("SIGTERM", "SIGKILL")
            how = hows[(turn + turn // len(replicas)) % 2]
            async with self._calm:
                took = await replica.restart(how)
            if how == "SIGTERM":
                self.happened.terminated += 1
                self.happened.ending_seconds.append(took)
            else:
                self.happened.killed += 1

    async def _commands_pass(self) -> None:
        """Wait until the registry takes commands again: the store's parts find each other late."""
        path = self._paths[0]
        for _ in range(300):
            if await self._move(path, "next", self._chance.choice(self._live[path])):
                return
            await asyncio.sleep(0.2)
        raise RuntimeError("the object store never came back")

    async def _publish(self, path: str) -> int | None:
        word = self._lexicon.words[next(self._words) % len(self._lexicon.words)]
        directory = self._site.folder / "made"
        made = await asyncio.to_thread(self._lexicon.write, directory, word)
        weights = (made / "adapter_model.safetensors").read_bytes()
        try:
            pushed = await asyncio.to_thread(self._site.registry.push, made, path)
        except LoraryError:
            self.happened.refused_commands += 1
            return None
        ref = str(pushed["ref"])
        self._truth.digests[ref] = pushed["digest"]
        self.population.words[ref] = word.text
        self.population.weights[ref] = hashlib.sha256(weights).hexdigest()
        self._live[path].append(pushed["version"])
        self.happened.published += 1
        return int(pushed["version"])

    async def _move(self, path: str, alias: str, version: int) -> bool:
        """Whether it was acknowledged; if it was not, it may have happened all the same."""
        told = Told(time.monotonic(), math.inf)
        moves = [self._truth.moves.setdefault(name, []) for name in self._forms(path, alias)]
        for told_of in moves:
            told_of.append((told, f"{path}@{version}"))
        try:
            domain, _, adapter = path.partition("/")
            await self._execute(MoveAlias(domain, adapter, alias, version))
        except LoraryError:
            self.happened.refused_commands += 1
            return False
        told = Told(told.began, time.monotonic())
        for told_of in moves:
            told_of[-1] = (told, f"{path}@{version}")
        self._named[f"{path}@{alias}"] = version
        self.happened.moves += 1
        return True

    def _forms(self, path: str, alias: str) -> list[str]:
        """Every name that means the alias."""
        domain, _, adapter = path.partition("/")
        forms = [f"{path}@{alias}"]
        if alias == "production":
            forms.append(path)
            if adapter == "a0":
                forms.append(domain)
        return forms

    async def _revoke(self, path: str, number: int) -> None:
        ref = f"{path}@{number}"
        told = self._truth.revoked[ref] = Told(time.monotonic(), math.inf)
        try:
            await self._execute(RevokeVersion(*AdapterRef.parse_version(ref), "soaked"))
        except LoraryError:
            self.happened.refused_commands += 1
            return
        told = self._truth.revoked[ref] = Told(told.began, time.monotonic())
        self._live[path].remove(number)
        self.happened.revoked += 1
        await asyncio.gather(*(self._refused(r, ref, told) for r in self._site.replicas))

    async def _refused(self, replica: Replica, ref: str, told: Told) -> None:
        took = await until_refused(replica, ref, self._site.app, told)
        if took is not None:
            self.happened.revocation_seconds.setdefault(replica.name, []).append(took)

    def _offer(self) -> None:
        """Let callers ask for what there is: pinned names as often as aliases, revoked ones too."""
        pinned = [f"{path}@{n}" for path in self._paths for n in self._live[path]]
        aliases = [name for name in self._truth.moves for _ in range(2)]
        self.population.names[:] = pinned + aliases + list(self._truth.revoked)[-3:]


async def until_refused(replica: Replica, ref: str, key: str, told: Told) -> float | None:
    """Seconds from a revocation's acknowledgement until the replica refuses the version; infinite
    if it does not within 30, None if it went away or was away."""
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=30) as client:
        while time.monotonic() < told.acknowledged + 30:
            if replica.life.away(told.acknowledged, time.monotonic()):
                return None
            with contextlib.suppress(httpx.HTTPError):
                reply = await client.get(f"{replica.url}/v1/models/{ref}")
                if reply.status_code == 410:
                    return time.monotonic() - told.acknowledged
            await asyncio.sleep(PROBE_SECONDS)
    return math.inf


async def _over(over: asyncio.Event, seconds: float) -> bool:
    """Wait so long, or until it is over: whether it is."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(over.wait(), seconds)
    return over.is_set()


def adapter_size(lexicon: Lexicon, folder: Path) -> int:
    """Bytes of one version on a replica's disk."""
    made = lexicon.write(folder / "measured", lexicon.words[0])
    files = ("adapter_config.json", "adapter_model.safetensors")
    return sum((made / name).stat().st_size for name in files)
