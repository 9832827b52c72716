"""The process that tries grammars: `python -m serving.grammars.worker`.

It reads one `Setup` and then `Task`s from its standard input and writes `Verdict`s to its standard
output. Each grammar is tried in a child with bounds on CPU time and memory that the kernel
enforces: xgrammar's compiler has no bound of its own, and cannot be interrupted.
"""

import contextlib
import os
import random
import re
import resource
import select
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from serving.grammars.protocol import Limits, Setup, Task, Verdict

TOO_LONG = "It takes too long to compile or to follow. Use a simpler one."
NO_ANSWER = "It allows no answer: somewhere no token may follow. Check that it can end."
STEPS = 48
"""Tokens of a random answer that each grammar is tried with."""
_PLACE = re.compile(r"^\[[\d:]+\] \S+: ")
"""Where in xgrammar's source an error was raised."""
_PAGE = resource.getpagesize()


class TooCostly(Exception):
    """A grammar above a limit."""


class NoAnswer(Exception):
    """A grammar with a place where no token may follow: vLLM fails there."""


def try_grammar(xgr: Any, setup: Setup, tokenizer: Any, task: Task) -> Verdict:
    """Compile and use the grammar as vLLM would; raises `TooCostly`, `NoAnswer` or what xgrammar
    raises."""
    limits, spec = setup.limits, task.spec
    compiler = xgr.GrammarCompiler(tokenizer, max_threads=1, cache_enabled=False)
    read, compile_, arguments = xgr.Grammar.from_ebnf, compiler.compile_grammar, (spec,)
    match task.kind:
        case "json":
            read, compile_ = xgr.Grammar.from_json_schema, compiler.compile_json_schema
            compile_ = partial(compile_, any_whitespace=False, separators=(",", ":"))
        case "regex":
            read, compile_ = xgr.Grammar.from_regex, compiler.compile_regex
        case "structural_tag":
            read, compile_ = xgr.Grammar.from_structural_tag, compiler.compile_structural_tag
            arguments = _structural_tag(xgr, spec)
        case "grammar" if "::=" not in spec:
            read, compile_ = xgr.Grammar.from_lark, compiler.compile_lark
    _kill_after(limits.read_seconds)
    read(*arguments)
    _kill_after(limits.seconds)
    began = time.process_time()
    compiled = compile_(*arguments)
    seconds = time.process_time() - began
    _kill_after(limits.mask_ms * STEPS / 1000)
    mask_ms = _mask_ms(xgr, compiled, setup.vocab_size, limits.mask_ms)
    return Verdict(task.id, seconds=seconds, mask_ms=mask_ms)


def _structural_tag(xgr: Any, spec: str) -> tuple[Any, ...]:
    """The arguments of xgrammar's functions for a structural tag, of the older form as well."""
    tag = msgspec.json.decode(spec)
    if "structures" not in tag:
        return (spec,)
    items = [
        xgr.StructuralTagItem(
            begin=s["begin"], schema=msgspec.json.encode(s["schema"]).decode(), end=s["end"]
        )
        for s in tag["structures"]
    ]
    return items, tag["triggers"]


def _mask_ms(xgr: Any, compiled: Any, vocab_size: int, most: float) -> float:
    """What a token costs, by the mean over random answers of `STEPS` tokens altogether."""
    matcher = xgr.GrammarMatcher(compiled)
    mask = xgr.allocate_token_bitmask(1, vocab_size)
    choose = random.Random(0)  # noqa: S311 - any path through the grammar will do
    began = time.process_time()
    taken = 0.0
    for step in range(1, STEPS + 1):
        matcher.fill_next_token_bitmask(mask, 0)
        taken = (time.process_time() - began) * 1000
        if taken > most * max(step, 4):
            raise TooCostly
        words = [(at, word) for at, word in enumerate(mask[0].tolist()) if word]
        if not words:
            raise NoAnswer
        at, word = choose.choice(words)
        bits = [bit for bit in range(32) if word >> bit & 1]
        paused = time.process_time()
        token = 32 * at + choose.choice(bits)
        began += time.process_time() - paused
        if not matcher.accept_token(token) or matcher.is_terminated():
            matcher.reset()
    return taken / STEPS


def _kill_after(seconds: float) -> None:
    """Let SIGPROF end this process once it has used `seconds` more of CPU time."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _bounded(limits: Limits) -> None:
    """Bounds on the memory of a child."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * _PAGE + limits.bytes
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _child(xgr: Any, setup: Setup, tokenizer: Any, task: Task) -> NoReturn:
    """Try a grammar in a new process, write the verdict, and end it."""
    verdict = Verdict(task.id, TOO_LONG)
    with contextlib.suppress(TooCostly, MemoryError):
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # xgrammar warns there
            _bounded(setup.limits)
            verdict = try_grammar(xgr, setup, tokenizer, task)
        except NoAnswer:
            verdict = Verdict(task.id, NO_ANSWER)
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            reason = _PLACE.sub("", (str(error) or type(error).__name__).strip().splitlines()[-1])
            verdict = Verdict(task.id, f"It cannot be compiled: {reason[-300:]}")
    _write(verdict)
    os._exit(0)


def _write(verdict: Verdict) -> None:
    os.write(1, msgspec.json.encode(verdict) + b"\n")  # below PIPE_BUF: never mixed with another


def main() -> None:
    """Serve until the standard input ends."""
    import xgrammar as xgr

    os.nice(5)  # requests under way come first
    lines = _lines()
    setup = msgspec.json.decode(next(filter(None, lines)), type=Setup)
    tokenizer = xgr.TokenizerInfo.deserialize_json(setup.tokenizer)
    _write(Verdict(0))
    running: dict[int, tuple[int, float]] = {}
    for line in lines:
        if line:
            task = msgspec.json.decode(line, type=Task)
            pid = os.fork()
            if pid == 0:
                _child(xgr, setup, tokenizer, task)
            running[pid] = (task.id, time.monotonic() + setup.limits.wall_seconds)
        for pid, (identifier, deadline) in list(running.items()):
            late = time.monotonic() > deadline
            if late:
                os.kill(pid, signal.SIGKILL)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del running[pid]
                if status:  # killed by a limit, or by the grammar
                    _write(Verdict(identifier, TOO_LONG, final=not late))
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _lines() -> Iterator[bytes]:
    """The lines of the standard input; an empty one every 20 ms without any."""
    waiting = b""
    while True:
        while b"\n" in waiting:
            line, _, waiting = waiting.partition(b"\n")
            yield line
        ready, _, _ = select.select([0], [], [], 0.02)
        piece = os.read(0, 1 << 16) if ready else b""
        if ready and not piece:
            return
        waiting += piece
        if not ready:
            yield b""


if __name__ == "__main__":
    main()
