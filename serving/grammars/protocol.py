"""Messages between the gateway and the process that tries grammars, one line of JSON each."""

from typing import Literal

import msgspec

Kind = Literal["json", "regex", "choice", "grammar", "structural_tag"]
"""The kinds of vLLM's xgrammar backend; choices, which it turns into a grammar, apart."""


class Limits(msgspec.Struct, frozen=True):
    """What one grammar may cost."""

    seconds: float = 3.0
    """CPU time to compile."""
    read_seconds: float = 0.1
    """CPU time to read, which vLLM spends in the event loop of the API process."""
    wall_seconds: float = 30.0
    """Time for all of it, on a machine that has more to do."""
    bytes: int = 1 << 30
    """Memory while it is compiled."""
    mask_ms: float = 50.0
    """CPU time to find the tokens that may come next, for each token of an answer."""


class Setup(msgspec.Struct, frozen=True):
    """The first line: for which tokenizer grammars are tried."""

    tokenizer: str
    """xgrammar's `TokenizerInfo`, serialised."""
    vocab_size: int
    limits: Limits


class Task(msgspec.Struct, frozen=True):
    """A grammar to try."""

    id: int
    kind: Kind
    spec: str


class Verdict(msgspec.Struct, frozen=True):
    """How it went."""

    id: int
    problem: str = ""
    """Why vLLM shall not see it; empty if it may."""
    seconds: float = 0.0
    """CPU time to compile it."""
    mask_ms: float = 0.0
    """CPU time for each token of each answer, milliseconds."""
    final: bool = True
    """Whether the next try would end alike; not if the machine was too busy to tell."""
