"""The process that tries grammars, as the gateway sees it: started when needed, and again."""

import asyncio
import contextlib
import os
import sys

import msgspec

from serving.grammars.protocol import Kind, Setup, Task, Verdict
from serving.grammars.worker import TOO_LONG

START_SECONDS = 120.0
"""The process imports PyTorch first; beside a server that starts this takes a while."""
_VARIABLES = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "HOME", "LANG", "TMPDIR")
"""Of the environment, which holds secrets, the process gets no more."""


class TryingProcess:
    """Use it from one event loop."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._asked: dict[int, asyncio.Future[Verdict]] = {}
        self._last = 0
        self._starting = asyncio.Lock()

    async def try_grammar(self, kind: Kind, spec: str) -> Verdict:
        """The verdict about one grammar.

        Where there is none, because the process ended or is too busy, the grammar is refused, but
        only this time.
        """
        try:
            await self.start()
            self._last += 1
            seconds = self._setup.limits.wall_seconds + 5
            return await self._ask(self._last, Task(self._last, kind, spec), seconds)
        except (TimeoutError, OSError):
            return Verdict(0, TOO_LONG, final=False)

    async def start(self) -> None:
        """Start the process unless it runs; returns once it is ready."""
        async with self._starting:
            if self._process is not None:
                return
            kept = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "serving.grammars.worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**kept, "OMP_NUM_THREADS": "1"},
            )
            self._reader = asyncio.create_task(self._read(self._process))
            await self._ask(0, self._setup, START_SECONDS)

    async def stop(self) -> None:
        """End the process; the next grammar starts another."""
        process, reader = self._process, self._reader
        if process is not None and reader is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await reader

    async def _ask(self, number: int, message: Setup | Task, seconds: float) -> Verdict:
        stdin = self._process.stdin if self._process is not None else None
        if stdin is None:
            raise ConnectionError("the process ended")
        answer: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            stdin.write(msgspec.json.encode(message) + b"\n")
            async with asyncio.timeout(seconds):
                return await answer
        finally:
            del self._asked[number]

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Hand verdicts to those who wait; tell them when the process has ended."""
        while process.stdout is not None and (line := await process.stdout.readline()):
            verdict = msgspec.json.decode(line, type=Verdict)
            answer = self._asked.get(verdict.id)
            if answer is not None and not answer.done():
                answer.set_result(verdict)
        self._process = None
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(ConnectionError("the process ended"))
