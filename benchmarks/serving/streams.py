"""Streamed completions as a client sees them, sent from processes of their own."""

import asyncio
import contextlib
import multiprocessing
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

import aiohttp

from benchmarks.servers import Served

PATIENCE = 600
"""Seconds for one answer."""
_WORDS = [
    "heart", "nerve", "court", "claim", "asset", "margin", "fever", "tissue", "judge", "statute",
    "revenue", "lease", "plasma", "tumour", "appeal", "tort", "dividend", "equity", "lung",
    "vein", "clause", "motion", "debt", "audit", "bone", "joint", "witness", "brief", "tax",
    "credit", "skin", "gland", "jury", "bail", "bond", "yield", "artery", "kidney", "verdict",
    "deed", "stock", "option",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: which adapter, how many tokens exactly, and a prompt that nobody else sends."""

    model: str
    tokens: int
    words: int = 8
    seed: int = field(default_factory=lambda: random.getrandbits(48))

    @property
    def prompt(self) -> str:
        """`words` common words, the same for the same seed; about a token each."""
        return " ".join(random.Random(self.seed).choices(_WORDS, k=self.words))


@dataclass(frozen=True, slots=True)
class Answer:
    """When it was asked for, and when each of its tokens came; seconds of the machine's clock."""

    model: str
    asked: float
    came: tuple[float, ...]
    refused: int = 0
    """How often it was answered 429 before."""

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
    """A load's answers."""

    answers: tuple[Answer, ...]

    @property
    def seconds(self) -> float:
        """From the first request to the last token."""
        return max(a.came[-1] for a in self.answers) - min(a.asked for a in self.answers)

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.answers) / self.seconds

    @property
    def tokens_per_second(self) -> float:
        """Over the whole load."""
        return sum(len(answer.came) for answer in self.answers) / self.seconds

    @property
    def firsts(self) -> list[float]:
        """Each answer's seconds to the first token."""
        return [answer.first for answer in self.answers]

    @property
    def gaps(self) -> list[float]:
        """Seconds between tokens, of all answers."""
        return [gap for answer in self.answers for gap in answer.gaps]


def client() -> aiohttp.ClientSession:
    """A client without a limit of connections."""
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    return aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))


async def stream(connection: aiohttp.ClientSession, served: Served, ask: Ask) -> Answer:
    """Ask once, and again while the answer is 429; raises unless every token came."""
    body = {
        "model": ask.model,
        "prompt": ask.prompt,
        "max_tokens": ask.tokens,
        "min_tokens": ask.tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }
    url = f"{served.url}/v1/completions"
    asked, refused = time.monotonic(), 0
    while True:
        came: list[float] = []
        async with connection.post(url, json=body, headers=served.headers) as reply:
            if reply.status == 429 and time.monotonic() - asked < PATIENCE:
                refused += 1
                await asyncio.sleep(0.1)
                continue
            if reply.status != 200:
                raise RuntimeError(f"{ask.model}: {reply.status} {(await reply.read())[:500]!r}")
            async for piece in reply.content.iter_any():
                if b'data: {"error"' in piece:
                    raise RuntimeError(f"{ask.model}: {piece[:500]!r}")
                came += [time.monotonic()] * piece.count(b"data: {")
        if not came:
            raise RuntimeError(f"{ask.model}: 200 without a token")
        return Answer(ask.model, asked, tuple(came), refused)


@dataclass(frozen=True, slots=True)
class _Job:
    """What one process does: so many callers, each asking anew when it was answered."""

    served: Served
    asks: Sequence[Ask]
    at_once: int
    begin: float
    """Of the machine's clock."""
    end: float | None
    """After which nothing more is asked."""


async def _do(job: _Job) -> list[Answer]:
    waiting = iter(job.asks)
    answers: list[Answer] = []
    async with client() as connection:

        async def caller() -> None:
            for ask in waiting:
                if job.end is not None and time.monotonic() > job.end:
                    return
                answers.append(await stream(connection, job.served, ask))

        await asyncio.sleep(max(0.0, job.begin - time.monotonic()))
        await asyncio.gather(*(caller() for _ in range(job.at_once)))
    return answers


def _work(pipe: Connection) -> None:
    """A process of the pool: jobs in, answers or an error out, until it is told None."""
    while (job := pipe.recv()) is not None:
        try:
            pipe.send(asyncio.run(_do(job)))
        except Exception as error:
            pipe.send(RuntimeError(repr(error)[:1000]))


class Load:
    """Processes that ask, so that asking is not what is measured."""

    def __init__(self, processes: int, settle: float) -> None:
        """settle: seconds before each load. vLLM's processes go on spinning for one after their
        last message, and where cores are few those of the other server would take this one's."""
        self._settle = settle
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Any] = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            context.Process(target=_work, args=(theirs,), daemon=True).start()
            self._pipes.append(ours)

    def run(
        self,
        served: Served,
        asks: Sequence[Ask],
        *,
        at_once: int,
        seconds: float | None = None,
    ) -> Run:
        """Send all of `asks`, or as many as begin within `seconds`. Raises what `stream` does."""
        pipes = self._pipes[: min(len(self._pipes), at_once)]
        begin = time.monotonic() + self._settle
        for place, pipe in enumerate(pipes):
            share = at_once // len(pipes) + (place < at_once % len(pipes))
            end = None if seconds is None else begin + seconds
            pipe.send(_Job(replace(served, pid=0), asks[place :: len(pipes)], share, begin, end))
        done = [pipe.recv() for pipe in pipes]
        for answers in done:
            if isinstance(answers, Exception):
                raise answers
        return Run(tuple(answer for answers in done for answer in answers))

    def close(self) -> None:
        """End the processes, where they have not ended already."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
