"""Patterns that can be followed at a bounded cost for each token. Pure.

xgrammar keeps every way in which the text so far may have come about. Where a repeated group holds
a repetition itself, and a character may continue the one or begin the other, as in `([a-z]*)*`,
there are more of them with each token: a step of the engine then takes seconds, for everybody, and
only once the answer has come to that place. No trial finds all such places, so patterns that have
one are refused by their form.

Repetitions one after another cost as much where they cannot be distinguished, as in `a*a*a*a*`, and
so do groups whose own end is uncertain, as in `((([ab]*b)*b)*b)*`: each uncertain end multiplies
the ways by the length of the answer. So only a few ends may be uncertain.

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
UNCERTAIN = (
    "Its pattern has too many repetitions of which the next character does not tell whether they "
    "go on, such as `a+a+a+a+`. Exclude the character that ends each, as in `[^,]*,[^,]*,`."
)
UNREADABLE = "Its pattern cannot be read. Use characters, classes, groups and repetitions."
TOO_MANY = "Its pattern has too many characters and classes once repetitions are written out."
MAX_COMPARISONS = 20_000
"""Comparisons of characters for one pattern."""
MAX_UNCERTAIN = 3
MAX_UNCERTAIN_REPEATED = 2
"""Uncertain ends of repetitions in one pattern; the second if one of them is within a repeated
group, where each counts once or twice for every such group. A token then costs some 10 ms after
2,000 characters."""
MAX_COUNTED = 128
"""The most that repetitions with an uncertain end may count to, together."""
_PIECE = re.compile(r"\\.|\[\^?\]|\[(?:\\.|[^\]\\])*\]|\(\?(?::|<[A-Za-z_]\w*>)", re.DOTALL)
"""What stands for itself, a class, or the beginning of a group that xgrammar makes a rule."""
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
            parsed = parser.parse(_PIECE.sub(_as_python_reads, pattern))
        reader = _Reader()
        reader.read(parsed)
        reader.check_ends()
    except (re.error, OverflowError, RecursionError, KeyError):
        return UNREADABLE
    except _AmbiguousError:
        return AMBIGUOUS
    except _UncertainError:
        return UNCERTAIN
    except _TooManyError:
        return TOO_MANY
    return ""


def _as_python_reads(piece: re.Match[str]) -> str:
    """A piece of a pattern in Python's form; raises KeyError for what xgrammar reads otherwise.

    Every group is a capturing one: Python takes others apart.
    """
    if piece[0] in ("[]", "[^]", r"\A", r"\Z"):
        raise KeyError(piece[0])
    return "(" if piece[0].startswith("(") else piece[0]


class _AmbiguousError(Exception):
    pass


class _UncertainError(Exception):
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


@dataclass(frozen=True, slots=True)
class _Repetition:
    """A repetition of no fixed number: the positions within, and those that it may end with."""

    within: range
    last: frozenset[int]
    most: int
    depth: int
    """How many repeated groups it is within; those with a most count twice, they cost more."""
    of_class: bool
    """Whether it is `*` after one class: outside repeated groups it costs the same forever."""


class _Reader:
    def __init__(self) -> None:
        self._repetitions: list[_Repetition] = []
        self._depth = 0
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
        if kind in (sre.ASSERT, sre.ASSERT_NOT):  # xgrammar takes them in schemas only
            self.read(value[1])
            return _Part()
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

    def check_ends(self) -> None:
        """Raise for more repetitions with an uncertain end than may be; once all is read."""
        uncertain = [one for one in self._repetitions if self._is_uncertain(one)]
        counted = [one for one in uncertain if one.most is not sre.MAXREPEAT]
        if any(one.depth for one in counted) or sum(one.most for one in counted) > MAX_COUNTED:
            raise _UncertainError
        most = MAX_UNCERTAIN_REPEATED if any(one.depth for one in uncertain) else MAX_UNCERTAIN
        if sum(one.depth or not one.of_class for one in uncertain) > most:
            raise _UncertainError

    def _is_uncertain(self, one: _Repetition) -> bool:
        """Whether a character may both go on within a repetition and follow it."""
        for number in one.last:
            going_on = [other for other in self._follow[number] if other in one.within]
            after = [other for other in self._follow[number] if other not in one.within]
            if any(self._meet(on, other) for other in after for on in going_on):
                return True
        return False

    def _repeated(self, least: int, most: int, items: Any) -> _Part:
        begin = len(self._characters)
        deeper = 0 if most == 1 else 1 if most is sre.MAXREPEAT else 2
        self._depth += deeper
        body = self.read(items)
        self._depth -= deeper
        if most > 1 and least != most:
            self._repetitions.append(
                _Repetition(
                    within=range(begin, len(self._characters)),
                    last=frozenset(body.last),
                    most=most,
                    depth=self._depth,
                    of_class=(least, most) == (0, sre.MAXREPEAT)
                    and items[0][0] in (sre.IN, sre.ANY, sre.NOT_LITERAL),
                )
            )
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
