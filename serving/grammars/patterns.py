"""Patterns that can be followed at a bounded cost for each token. Pure.

xgrammar keeps every way in which the text so far may have come about. Where a repeated group holds
a repetition itself, and a character may continue the one or begin the other, as in `([a-z]*)*`,
there are more of them with each token: a step of the engine then takes seconds, for everybody, and
only once the answer has come to that place. No trial finds all such places, so patterns that have
one are refused by their form.

The form is read from the position automaton (V. M. Glushkov, The abstract theory of automata, 1961;
A. Brüggemann-Klein and D. Wood, One-unambiguous regular languages, 1998): the positions that a part
may begin with, end with, and go on to.
"""

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from re import _constants as sre
from re import _parser as parser
from typing import Any

AMBIGUOUS = (
    "Its pattern has an ambiguous nested repetition, such as `([a-z]*)*`. Write one repetition, or "
    "put a separator between, as in `([a-z]+,)*`."
)
UNREADABLE = "Its pattern cannot be read. Use characters, classes, groups and repetitions."
TOO_MANY = "Its pattern has too many characters and classes once repetitions are written out."
MAX_COMPARISONS = 20_000
"""Comparisons of characters for one pattern."""
_NAMED = re.compile(r"\(\?<([A-Za-z_]\w*)>")
_HIGHEST = 0x10FFFF
_CLASSES = {
    sre.CATEGORY_DIGIT: [(48, 57)],
    sre.CATEGORY_SPACE: [(9, 13), (32, 32), (160, 160), (5760, 5760), (8192, 8202), (8232, 8233)],
    sre.CATEGORY_WORD: [(48, 57), (65, 90), (95, 95), (97, 122)],
}
_NOT = {
    sre.CATEGORY_NOT_DIGIT: sre.CATEGORY_DIGIT,
    sre.CATEGORY_NOT_SPACE: sre.CATEGORY_SPACE,
    sre.CATEGORY_NOT_WORD: sre.CATEGORY_WORD,
}

Ranges = list[tuple[int, int]]
"""Characters, as ranges of code points in order."""


def problem(pattern: str) -> str:
    """Why `pattern` is refused; empty if it may be tried."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of what Python may read otherwise one day
            parsed = parser.parse(_NAMED.sub("(", pattern))
        _Reader().read(parsed)
    except (re.error, OverflowError, RecursionError, KeyError):
        return UNREADABLE
    except _AmbiguousError:
        return AMBIGUOUS
    except _TooManyError:
        return TOO_MANY
    return ""


class _AmbiguousError(Exception):
    pass


class _TooManyError(Exception):
    pass


@dataclass(slots=True)
class _Part:
    """A part of a pattern: its positions are numbers."""

    first: set[int] = field(default_factory=set)
    last: set[int] = field(default_factory=set)
    nullable: bool = True
    repeats: bool = False
    """Whether a repetition of no fixed number is within."""


class _Reader:
    def __init__(self) -> None:
        self._characters: list[Ranges] = []
        self._follow: list[set[int]] = []
        self._compared = 0

    def read(self, items: Iterable[tuple[Any, Any]]) -> _Part:
        """The parts one after another."""
        whole = _Part()
        for kind, value in items:
            whole = self._then(whole, self._one(kind, value))
        return whole

    def _one(self, kind: Any, value: Any) -> _Part:
        if kind in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            return self._repeated(*value)
        if kind is sre.SUBPATTERN:
            return self.read(value[3])
        if kind is sre.ATOMIC_GROUP:
            return self.read(value)
        if kind is sre.BRANCH:
            return self._either([self.read(branch) for branch in value[1]])
        if kind is sre.AT:
            return _Part()
        return self._position(_characters(kind, value))

    def _position(self, characters: Ranges) -> _Part:
        number = len(self._characters)
        self._characters.append(characters)
        self._follow.append(set())
        return _Part({number}, {number}, nullable=False)

    def _then(self, before: _Part, after: _Part) -> _Part:
        for number in before.last:
            self._follow[number] |= after.first
        return _Part(
            before.first | after.first if before.nullable else before.first,
            before.last | after.last if after.nullable else after.last,
            before.nullable and after.nullable,
            before.repeats or after.repeats,
        )

    def _either(self, parts: list[_Part]) -> _Part:
        return _Part(
            set().union(*(part.first for part in parts)),
            set().union(*(part.last for part in parts)),
            any(part.nullable for part in parts),
            any(part.repeats for part in parts),
        )

    def _repeated(self, least: int, most: int, items: Any) -> _Part:
        body = self.read(items)
        if most > 1:
            if body.repeats and (body.nullable or self._overlap(body)):
                raise _AmbiguousError
            for number in body.last:
                self._follow[number] |= body.first
        return _Part(
            body.first, body.last, body.nullable or least == 0, body.repeats or least != most
        )

    def _overlap(self, body: _Part) -> bool:
        """Whether a character may both go on within `body` and begin it again."""
        return any(
            self._meet(within, again)
            for number in body.last
            for within in self._follow[number]
            for again in body.first
        )

    def _meet(self, one: int, other: int) -> bool:
        self._compared += 1
        if self._compared > MAX_COMPARISONS:
            raise _TooManyError
        return any(
            a <= d and c <= b for a, b in self._characters[one] for c, d in self._characters[other]
        )


def _characters(kind: Any, value: Any) -> Ranges:
    """What one position stands for; raises KeyError for what is not a character."""
    if kind is sre.ANY:
        return [(0, _HIGHEST)]
    if kind is sre.LITERAL:
        return [(value, value)]
    if kind is sre.NOT_LITERAL:
        return _others([(value, value)])
    if kind is not sre.IN:
        raise KeyError(kind)
    found: Ranges = []
    negated = False
    for name, member in value:
        if name is sre.NEGATE:
            negated = True
        elif name is sre.LITERAL:
            found.append((member, member))
        elif name is sre.RANGE:
            found.append(member)
        elif member in _NOT:
            found += _others(_CLASSES[_NOT[member]])
        else:
            found += _CLASSES[member]
    return _others(found) if negated else found


def _others(ranges: Ranges) -> Ranges:
    """Every other character."""
    found: Ranges = []
    start = 0
    for low, high in sorted(ranges):
        if low > start:
            found.append((start, low - 1))
        start = max(start, high + 1)
    return [*found, (start, _HIGHEST)] if start <= _HIGHEST else found
