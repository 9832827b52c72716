"""Lets the grammars of requests through, once a process of its own has tried them.

vLLM reads a grammar in the event loop of the API process, compiles it in the engine's only thread
for that, and follows it in the middle of every step, none of it with a bound. So each grammar is
tried first, in bounds that the kernel enforces (`serving.grammars.worker`): a key tries one at a
time, all of them a few at once, and verdicts are remembered by digest. What following costs can
grow with the answer, where no trial sees it: patterns in which it would are refused by their form
(`serving.grammars.patterns`), and free grammars unless the operator takes them.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Sequence

from registry.errors import BadRequest
from serving.errors import EngineNotAttached, LimitReached
from serving.grammars.process import TryingProcess
from serving.grammars.protocol import Kind, Limits, Setup, Verdict
from serving.grammars.wanted import form_problem
from serving.grammars.worker import TOO_LONG

FREE = ("grammar", "structural_tag")
NOT_FREE = (
    "This server takes no grammars and structural tags, because what they cost has no bound. Use a "
    "JSON schema, a `regex` or a `choice`; or an operator who trusts every caller sets "
    "LORARY_FREE_GRAMMARS=true."
)
AT_ONCE = 2
"""Grammars tried at once."""
MAX_WAITING = 64
MAX_WAITING_OF_KEY = 8
"""Grammars that may wait to be tried, of all keys and of one."""
MAX_REMEMBERED = 4_096
MAX_STEP_MS = 200.0
"""What the grammars of one request may cost in each step of the engine, milliseconds."""


class RefusedGrammar(BadRequest):
    """A grammar, schema or pattern that costs more than one request may."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"The grammar or schema that the answer must keep to is refused. {problem}"
        )


class _Turn:
    """A key tries one grammar at a time."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0


class Gatekeeper:
    """Remembers verdicts, and has new grammars tried. Use it from one event loop."""

    def __init__(self, limits: Limits, *, free: bool = False) -> None:
        """free: whether grammars and structural tags are taken."""
        self._free = free
        self._limits = limits
        self._process: TryingProcess | None = None
        self._problem = ""
        self._remembered: OrderedDict[bytes, Verdict] = OrderedDict()
        self._waiting: dict[bytes, asyncio.Task[Verdict]] = {}
        self._keys: dict[str, _Turn] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    def attach(self, tokenizer: str, vocab_size: int) -> None:
        """Try grammars for this tokenizer, xgrammar's `TokenizerInfo`, serialised."""
        self._process = TryingProcess(Setup(tokenizer, vocab_size, self._limits))

    def refuse_all(self, problem: str) -> None:
        """Refuse every grammar, because `problem`."""
        self._problem = problem

    async def start(self) -> None:
        """Have the process ready before the first grammar comes."""
        if self._process is not None:
            await self._process.start()

    async def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            await self._process.stop()

    @property
    def process(self) -> TryingProcess:
        """What tries; raises `EngineNotAttached` before a tokenizer is known."""
        if self._process is None:
            raise EngineNotAttached
        return self._process

    async def check(self, key: str, grammars: Sequence[tuple[Kind, str]], sequences: int) -> None:
        """Raise `RefusedGrammar` unless vLLM may compile these and follow them in every step.

        key: whose request it is. sequences: how many answers follow them at once. Raises
        `LimitReached` when too many wait to be tried.
        """
        if self._problem:
            raise RefusedGrammar(self._problem)
        seconds = mask_ms = 0.0
        for kind, spec in grammars:
            if kind in FREE and not self._free:
                raise RefusedGrammar(NOT_FREE)
            if found := form_problem(kind, spec):
                raise RefusedGrammar(found)
            verdict = await self._verdict(key, kind, spec)
            seconds += verdict.seconds
            mask_ms = max(mask_ms, verdict.mask_ms)
            if verdict.problem or seconds > self._limits.seconds:
                raise RefusedGrammar(verdict.problem or TOO_LONG)
        if mask_ms * sequences > MAX_STEP_MS:
            raise RefusedGrammar(
                f"{sequences} answers that keep to it would take {mask_ms * sequences:.0f} ms for "
                f"each token, above {MAX_STEP_MS:.0f}. Ask for fewer, or use a simpler one."
            )

    async def _verdict(self, key: str, kind: Kind, spec: str) -> Verdict:
        digest = hashlib.sha256(f"{kind}\0{spec}".encode()).digest()
        if digest in self._remembered:
            self._remembered.move_to_end(digest)
            return self._remembered[digest]
        trying = self._waiting.get(digest)
        if trying is None:
            turn = self._keys.get(key) or _Turn()
            if len(self._waiting) >= MAX_WAITING or turn.waiting >= MAX_WAITING_OF_KEY:
                raise LimitReached("Too many new grammars wait to be tried.", 2.0)
            self._keys[key] = turn
            turn.waiting += 1
            trying = asyncio.create_task(self._try(digest, key, turn, kind, spec))
            self._waiting[digest] = trying
        # It goes on if its caller leaves: leaving must not start the next one beside it.
        return await asyncio.shield(trying)

    async def _try(self, digest: bytes, key: str, turn: _Turn, kind: Kind, spec: str) -> Verdict:
        try:
            async with turn.lock, self._slots:
                verdict = await self.process.try_grammar(kind, spec)
            if verdict.final:
                self._remembered[digest] = verdict
                if len(self._remembered) > MAX_REMEMBERED:
                    self._remembered.popitem(last=False)
            return verdict
        finally:
            del self._waiting[digest]
            turn.waiting -= 1
            if not turn.waiting:
                del self._keys[key]
