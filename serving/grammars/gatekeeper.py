"""Admission of grammars: which of them vLLM may compile and follow, tried in a process first.

vLLM parses a grammar in the event loop of the API process, compiles it in the engine's only thread
for that, and applies it in every step of the engine, all without a bound. So each grammar is first
tried in a process whose CPU time and memory the kernel bounds (`serving.grammars.worker`). One
trial of a key runs at a time and `AT_ONCE` of all keys together; verdicts are kept by digest.

What applying a grammar costs can grow with the length of the answer, which no trial shows. So
patterns in which it would grow are refused by their form (`serving.grammars.patterns`), and
grammars and structural tags are refused unless the operator accepts them.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Sequence

from registry.errors import BadRequest
from serving.errors import EngineNotAttached, LimitReached
from serving.grammars.process import TrialProcess
from serving.grammars.protocol import Kind, Limits, Setup, Verdict
from serving.grammars.wanted import form_problem
from serving.grammars.worker import TOO_LONG

UNBOUNDED = ("grammar", "structural_tag")
"""Kinds whose cost per token no check bounds."""
UNBOUNDED_REFUSED = (
    "This server accepts no grammars and structural tags, because what they cost has no bound. Use "
    "a JSON schema, a `regex` or a `choice`; or an operator who trusts every caller sets "
    "LORARY_FREE_GRAMMARS=true."
)
AT_ONCE = 2
"""Grammars of all keys that are tried at once."""
MAX_WAITING = 64
"""Grammars of all keys that are tried or wait for it."""
MAX_WAITING_OF_KEY = 8
"""Those of one key."""
MAX_REMEMBERED = 4_096
"""Verdicts kept; the least recently used is dropped first."""
MAX_STEP_MS = 200.0
"""Milliseconds that the grammars of one request may add to each step of the engine."""


class RefusedGrammar(BadRequest):
    """A grammar, schema or pattern that the server does not accept."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"The grammar or schema that the answer must keep to is refused. {problem}"
        )


class _KeyTrials:
    """The trials of one key, of which one runs at a time."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0


class Gatekeeper:
    """Admits grammars by the verdicts it keeps, and tries new ones. Use it from one event loop."""

    def __init__(self, limits: Limits, *, free: bool = False) -> None:
        """limits: what one grammar may cost. free: whether `UNBOUNDED` kinds are accepted."""
        self._free = free
        self._limits = limits
        self._process: TrialProcess | None = None
        self._problem = ""
        self._remembered: OrderedDict[bytes, Verdict] = OrderedDict()
        self._trials: dict[bytes, asyncio.Task[Verdict]] = {}
        self._keys: dict[str, _KeyTrials] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    def attach(self, tokenizer: str, vocab_size: int) -> None:
        """Set the tokenizer that grammars are tried for.

        tokenizer: xgrammar's `TokenizerInfo`, serialised. vocab_size: of the model's logits.
        """
        self._process = TrialProcess(Setup(tokenizer, vocab_size, self._limits))

    def refuse_all(self, problem: str) -> None:
        """Refuse every grammar from now on. problem: the reason, a sentence that callers get."""
        self._problem = problem

    async def start(self) -> None:
        """Start the process, so that the first grammar need not wait for it. Raises as
        `TrialProcess.start`."""
        if self._process is not None:
            await self._process.start()

    async def stop(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            await self._process.stop()

    @property
    def process(self) -> TrialProcess:
        """The process that tries grammars; raises `EngineNotAttached` before `attach`."""
        if self._process is None:
            raise EngineNotAttached
        return self._process

    async def check(self, key: str, grammars: Sequence[tuple[Kind, str]], sequences: int) -> None:
        """Raise `RefusedGrammar` unless vLLM may compile these and follow them in every step.

        key: the id of the caller's key. grammars: kind and text of each, as the request has them.
        sequences: how many answers apply them at once. Raises `LimitReached` when too many new
        grammars wait, and `EngineNotAttached` before `attach`.
        """
        if self._problem:
            raise RefusedGrammar(self._problem)
        seconds = mask_ms = 0.0
        for kind, spec in grammars:
            if kind in UNBOUNDED and not self._free:
                raise RefusedGrammar(UNBOUNDED_REFUSED)
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
        trial = self._trials.get(digest)
        if trial is None:
            key_trials = self._keys.get(key) or _KeyTrials()
            if len(self._trials) >= MAX_WAITING or key_trials.waiting >= MAX_WAITING_OF_KEY:
                raise LimitReached("Too many new grammars wait to be tried.", 2.0)
            self._keys[key] = key_trials
            key_trials.waiting += 1
            trial = asyncio.create_task(self._try(digest, key, key_trials, kind, spec))
            self._trials[digest] = trial
        # A trial goes on if its caller disconnects: else a key could start the next beside it.
        return await asyncio.shield(trial)

    async def _try(
        self, digest: bytes, key: str, key_trials: _KeyTrials, kind: Kind, spec: str
    ) -> Verdict:
        try:
            async with key_trials.lock, self._slots:
                verdict = await self.process.try_grammar(kind, spec)
            if verdict.final:
                self._remembered[digest] = verdict
                if len(self._remembered) > MAX_REMEMBERED:
                    self._remembered.popitem(last=False)
            return verdict
        finally:
            del self._trials[digest]
            key_trials.waiting -= 1
            if not key_trials.waiting:
                del self._keys[key]
