"""Untrusted regular expressions, matched in time linear in the text. Pure.

Python's own engine backtracks: a pattern such as `(a+)+b` takes exponential time. Here a pattern
becomes a nondeterministic automaton, and all its states are followed at once (K. Thompson, "Regular
expression search algorithm", CACM 11 (1968); R. Cox, "Regular expression matching can be simple and
fast", 2007). Python's parser reads the pattern, so its notation is Python's, less what such an
automaton cannot follow: back references, lookarounds, conditional, atomic and possessive groups.
Only whether a pattern matches is returned, so greedy and lazy repetitions are the same.
"""

import functools
import importlib
import re
import warnings
from collections.abc import Iterable
from typing import Any

sre: Any = importlib.import_module("re._constants")
parser: Any = importlib.import_module("re._parser")

MAX_PATTERN = 2000
"""Characters of a pattern."""
MAX_STATES = 2000
"""States, once counted repetitions are written out."""
MAX_TEXT = 20_000
"""Characters of a text; what is behind them is not read."""
MAX_KEPT = 20_000
"""States in the transitions that are remembered, so that each is worked out once."""
MAX_LETTERS = 100
"""Letters of which it is remembered which classes they are in."""

_CHARACTER, _SPLIT, _AT, _MATCH = range(4)
_WORD = re.compile(r"\w")
_CATEGORIES = {
    sre.CATEGORY_DIGIT: (re.compile(r"\d"), True),
    sre.CATEGORY_NOT_DIGIT: (re.compile(r"\d"), False),
    sre.CATEGORY_SPACE: (re.compile(r"\s"), True),
    sre.CATEGORY_NOT_SPACE: (re.compile(r"\s"), False),
    sre.CATEGORY_WORD: (_WORD, True),
    sre.CATEGORY_NOT_WORD: (_WORD, False),
}
_ANCHORS = {
    sre.AT_BEGINNING: "begin",
    sre.AT_BEGINNING_STRING: "begin",
    sre.AT_END: "end",
    sre.AT_END_STRING: "very end",
    sre.AT_BOUNDARY: "boundary",
    sre.AT_NON_BOUNDARY: "no boundary",
}


class UnsafePattern(ValueError):
    """A pattern that is none, or that cannot be matched in linear time."""


class BoundedPattern:
    """A regular expression that costs a bounded number of steps for each character of a text."""

    def __init__(self, pattern: str, *, ignore_case: bool = False) -> None:
        """Raises `UnsafePattern` with what is wrong and what to write instead."""
        self.pattern = pattern
        self._ignore_case = ignore_case
        self._states: list[tuple[int, Any, int, int]] = []
        """Kind, argument, and where it goes on to: one or two states."""
        if len(pattern) > MAX_PATTERN:
            raise UnsafePattern(f"it has more than {MAX_PATTERN} characters. Shorten it")
        try:
            with warnings.catch_warnings(action="ignore"):
                parsed = parser.parse(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise UnsafePattern(f"it is no regular expression: {error}") from error
        flags = parsed.state.flags & ~re.UNICODE
        if flags:
            raise UnsafePattern("it sets flags. Leave them out, and say ignore_case beside it")
        self._written = 0
        self._classes: dict[tuple[Any, ...], int] = {}
        self._members: list[tuple[bool, list[tuple[Any, Any]]]] = []
        self._match = match = self._add(_MATCH, None)
        try:
            self._start = self._sequence(list(parsed), match)
        except RecursionError as error:
            raise UnsafePattern("it is nested too deep. Flatten it") from error
        self._kept: dict[tuple[frozenset[int], str, str], tuple[frozenset[int], bool]] = {}
        self._kept_states = 0
        self._within: dict[str, dict[int, bool]] = {}

    @property
    def states(self) -> int:
        """How many steps a letter of a text takes, at most."""
        return len(self._states)

    def matches(self, text: str) -> bool:
        """Whether the whole text matches."""
        return self._run(text[:MAX_TEXT], anywhere=False)

    def found_in(self, text: str) -> bool:
        """Whether any part of the text matches."""
        return self._run(text[:MAX_TEXT], anywhere=True)

    def _run(self, text: str, *, anywhere: bool) -> bool:
        waiting = frozenset((self._start,))
        fresh = waiting if anywhere else frozenset[int]()
        before = ""
        for at, letter in enumerate(text):
            # `$` also stands before a last line feed, as in Python.
            after = "\n" if letter == "\n" and at == len(text) - 1 else letter
            last = after == "\n" and at == len(text) - 1
            reached, matched = self._step(waiting, before, letter, last)
            if matched and anywhere:
                return True
            waiting = reached | fresh
            before = letter
        return self._matched_at_end(waiting, before)

    def _step(
        self, waiting: frozenset[int], before: str, letter: str, last: bool
    ) -> tuple[frozenset[int], bool]:
        """The states after a letter, and whether a match ended before it."""
        edge = "" if not before else "w" if _WORD.match(before) else "n"
        key = (waiting, edge, letter + "$" * last)
        known = self._kept.get(key)
        if known is not None:
            return known
        states = self._closure(waiting, edge, letter, last=last)
        reached = self._taken(letter, states)
        matched = self._match in states
        if self._kept_states < MAX_KEPT:
            self._kept_states += 1 + len(waiting) + len(reached)
            self._kept[key] = reached, matched
        return reached, matched

    def _taken(self, letter: str, states: set[int]) -> frozenset[int]:
        """Where those of the states go on to that take a letter. Each class is asked once."""
        known = self._within.get(letter)
        if known is None:
            known = {}
            if len(self._within) < MAX_LETTERS:
                self._within[letter] = known
        reached = set[int]()
        for state in states:
            kind, place, goes_on, _ = self._states[state]
            if kind != _CHARACTER:
                continue
            if place not in known:
                known[place] = self._accepts(self._members[place], letter)
            if known[place]:
                reached.add(goes_on)
        return frozenset(reached)

    def _matched_at_end(self, waiting: frozenset[int], before: str) -> bool:
        edge = "" if not before else "w" if _WORD.match(before) else "n"
        states = self._closure(waiting, edge, "", last=False)
        return self._match in states

    def _closure(self, waiting: Iterable[int], edge: str, after: str, *, last: bool) -> set[int]:
        """Every state that is reached without a letter, where anchors hold.

        edge: "" at the beginning, "w" after a word's character, else "n". after: the next letter.
        """
        border = (edge == "w") is not (_WORD.match(after) is not None)
        holds = {
            "begin": not edge,
            "end": not after or last,
            "very end": not after,
            "boundary": border,
            "no boundary": not border and bool(edge or after),
        }
        found: set[int] = set()
        left = list(waiting)
        while left:
            state = left.pop()
            if state in found:
                continue
            found.add(state)
            kind, argument, one, other = self._states[state]
            if kind == _SPLIT:
                left += (one, other)
            elif kind == _AT and holds[argument]:
                left.append(one)
        return found

    def _accepts(self, accepts: tuple[bool, Any], letter: str) -> bool:
        forms = {letter}
        if self._ignore_case:
            lower = letter.lower()
            forms |= {lower, letter.upper(), lower.upper()}
        negated, members = accepts
        return any(_within(members, form) for form in forms if len(form) == 1) != negated

    def _add(self, kind: int, argument: Any, one: int = -1, other: int = -1) -> int:
        if len(self._states) >= MAX_STATES:
            raise UnsafePattern(
                f"it has more than {MAX_STATES} states once repetitions are written out. Shorten it"
            )
        self._states.append((kind, argument, one, other))
        return len(self._states) - 1

    def _sequence(self, items: list[tuple[Any, Any]], then: int) -> int:
        """The state that `items`, followed by `then`, begin with."""
        self._written += 1
        if self._written > MAX_STATES:  # nothing, repeated, makes no states
            raise UnsafePattern(f"it has more than {MAX_STATES} repeated parts. Shorten it")
        for kind, value in reversed(items):
            then = self._one(kind, value, then)
        return then

    def _one(self, kind: Any, value: Any, then: int) -> int:
        if kind in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            least, most, body = value
            return self._repeated(least, most, body, then)
        if kind is sre.SUBPATTERN:
            _, added, removed, items = value
            if added or removed:
                raise UnsafePattern("a group sets flags. Leave them out")
            return self._sequence(list(items), then)
        if kind is sre.BRANCH:
            first, *others = [self._sequence(list(branch), then) for branch in value[1]]
            for other in others:
                first = self._add(_SPLIT, None, first, other)
            return first
        if kind is sre.AT:
            return self._add(_AT, _ANCHORS[value], then)
        negated, members = _members(kind, value)
        place = self._classes.setdefault((negated, *members), len(self._members))
        if place == len(self._members):
            self._members.append((negated, members))
        return self._add(_CHARACTER, place, then)

    def _repeated(self, least: int, most: Any, items: Any, then: int) -> int:
        body = list(items)
        if most is sre.MAXREPEAT:
            loop = self._add(_SPLIT, None, then, then)
            self._states[loop] = (_SPLIT, None, self._sequence(body, loop), then)
            then = loop
        else:
            for _ in range(most - least):
                then = self._add(_SPLIT, None, self._sequence(body, then), then)
        for _ in range(least):
            then = self._sequence(body, then)
        return then


@functools.lru_cache(maxsize=128)
def compiled(pattern: str, ignore_case: bool) -> BoundedPattern:
    """The pattern, read once. Raises `UnsafePattern`."""
    return BoundedPattern(pattern, ignore_case=ignore_case)


def _members(kind: Any, value: Any) -> tuple[bool, list[tuple[Any, Any]]]:
    """Whether a class is negated, and what is in it."""
    if kind is sre.ANY:
        return True, [(sre.LITERAL, ord("\n"))]
    if kind is sre.LITERAL:
        return False, [(sre.LITERAL, value)]
    if kind is sre.NOT_LITERAL:
        return True, [(sre.LITERAL, value)]
    if kind is not sre.IN:
        raise UnsafePattern(
            "it uses back references, lookarounds, or conditional, atomic or possessive groups, "
            "which take more than linear time. Write it without"
        )
    negated = value[0][0] is sre.NEGATE
    return negated, list(value[1:] if negated else value)


def _within(members: list[tuple[Any, Any]], letter: str) -> bool:
    for kind, value in members:
        if kind is sre.LITERAL and ord(letter) == value:
            return True
        if kind is sre.RANGE and value[0] <= ord(letter) <= value[1]:
            return True
        if kind is sre.CATEGORY:
            pattern, wanted = _CATEGORIES[value]
            if bool(pattern.match(letter)) == wanted:
                return True
    return False
