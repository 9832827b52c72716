"""The gateway's side of the process that tries grammars (`serving.grammars.worker`)."""

import asyncio
import contextlib
import os
import sys

import msgspec

from serving.grammars.protocol import Kind, Setup, Task, Verdict
from serving.grammars.worker import TOO_LONG

START_SECONDS = 120.0
"""How long the process may take to be ready. It imports PyTorch, while the server starts, too."""
SPARE_SECONDS = 5
"""How much longer than a trial may take (`Limits.wall_seconds`) its verdict is waited for."""
_PASSED_VARIABLES = (
    "PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "LD_LIBRARY_PATH",
    "HOME",
    "LANG",
    "TMPDIR",
)
"""Environment variables that the process gets; others hold secrets."""


class TrialProcess:
    """Runs the process that tries grammars, and starts it again when it has ended.

    Use it from one event loop.
    """

    def __init__(self, setup: Setup) -> None:
        """setup: the tokenizer and the limits that grammars are tried with."""
        self._setup = setup
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._asked: dict[int, asyncio.Future[Verdict]] = {}
        self._last = 0
        self._starting = asyncio.Lock()

    async def try_grammar(self, kind: Kind, spec: str) -> Verdict:
        """Try one grammar and return the verdict. Starts the process unless it runs.

        spec: the grammar as vLLM's xgrammar backend gets it, in the form that `kind` names. If the
        process ends or does not answer in time, the verdict refuses the grammar and is not `final`:
        the next request with it tries again.
        """
        try:
            await self.start()
            self._last += 1
            seconds = self._setup.limits.wall_seconds + SPARE_SECONDS
            return await self._ask(self._last, Task(self._last, kind, spec), seconds)
        except (TimeoutError, OSError):
            return Verdict(0, TOO_LONG, final=False)

    async def start(self) -> None:
        """Start the process unless it runs; returns once it is ready.

        Raises `TimeoutError` after `START_SECONDS`, and `OSError` if it cannot start or ends.
        """
        async with self._starting:
            if self._process is not None:
                return
            kept = {name: os.environ[name] for name in _PASSED_VARIABLES if name in os.environ}
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
        """End the process, if it runs; the next grammar starts another."""
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
        """Hand each verdict to the trial that waits for it; when the process has ended, fail those
        that still wait with `ConnectionError`."""
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
