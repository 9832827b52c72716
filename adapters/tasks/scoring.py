"""How an answer is scored: one frozen struct for each kind that a task may choose. Pure.

    Scoring
    ├── Exact     the reference answer, or another that is accepted
    ├── Label     one of the task's labels
    ├── Choice    one of the choices of a question, by its letter or its words
    ├── Numeric   a number within a tolerance
    ├── Pattern   what an answer must match, and what it must not (adapters.bounded_patterns)
    ├── Vocabulary  no code in it is invented
    ├── Rubric    weighted criteria, judged by experts or, marked as such, by a model
    └── Harness   as an lm-evaluation-harness task says

Each takes whatever a model may write; the time it takes is bounded by the length of that.
"""

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Annotated, ClassVar, Literal, Protocol

import msgspec
from msgspec import Meta

from adapters.bounded_patterns import MAX_STATES, UnsafePattern, compiled
from adapters.tasks.criteria import Criterion, earned_share, is_enough
from adapters.tasks.criteria import fault as fault_of

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_READ = 20_000
"""Characters of an answer that are read."""
MAX_DIGITS = 40
READING = 50
"""Steps that it takes to read a pattern, for each of its states."""
_NUMBER = re.compile(r"[-+\u2212]?(?:[0-9][0-9,]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")
_ARTICLES = frozenset(("a", "an", "in", "the"))

Text = Annotated[str, Meta(min_length=1, max_length=4000)]
PatternText = Annotated[str, Meta(min_length=1, max_length=2000)]
Patterns = Annotated[tuple[PatternText, ...], Meta(max_length=50)]
Tolerance = Annotated[float, Meta(ge=0, le=1e300)]


class Expected(Protocol):
    """What an item states about its answer."""

    @property
    def target(self) -> str:
        """The reference answer."""

    @property
    def accepted(self) -> Sequence[str]:
        """Other right answers."""

    @property
    def choices(self) -> Sequence[str]:
        """The answers to choose from."""

    @property
    def match(self) -> Sequence[str]:
        """Patterns of which an answer must match one."""

    @property
    def never(self) -> Sequence[str]:
        """Patterns that an answer must not match."""

    @property
    def criteria(self) -> Sequence[Criterion]:
        """What experts look for in it."""


class Scoring(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True,
              tag_field="kind"):  # fmt: skip
    """What all kinds share."""

    uses: ClassVar[frozenset[str]] = frozenset()
    """Fields of an item, beside text and target, that this kind reads."""

    @property
    def kind(self) -> str:
        """As `task.yaml` names it."""
        return str(self.__struct_config__.tag)

    def read(self, text: str, item: Expected) -> str:
        """The answer that a text gives, in a form that can be compared."""
        del item
        return text[:MAX_READ].strip()

    @abstractmethod
    def right(self, text: str, item: Expected) -> bool | None:
        """Whether a text answers the item; None if no rule can tell and somebody must judge."""

    def fault(self, item: Expected, labels: Sequence[str]) -> str | None:
        """What of an item does not suit this kind, as a sentence; None if it does."""
        del labels
        return None if item.target.strip() else "It has no target. Write the right answer."

    def cost(self, item: Expected) -> int:
        """About how many steps `fault` takes, where they may be many."""
        del item
        return 0


class Exact(Scoring, frozen=True, kw_only=True, tag="exact"):
    """The answer is the target, or one of `accepted`, but for blanks around it."""

    ignore_case: bool = False
    uses: ClassVar[frozenset[str]] = frozenset({"accepted"})

    def read(self, text: str, item: Expected) -> str:
        """The text without blanks around it."""
        del item
        found = text[:MAX_READ].strip()
        return found.casefold() if self.ignore_case else found

    def right(self, text: str, item: Expected) -> bool:
        """Whether it is the target or accepted."""
        known = {self.read(answer, item) for answer in (item.target, *item.accepted)}
        return len(text) <= MAX_READ and self.read(text, item) in known


class Label(Exact, frozen=True, kw_only=True, tag="label"):
    """The answer is one of the task's labels."""

    uses: ClassVar[frozenset[str]] = frozenset()

    def fault(self, item: Expected, labels: Sequence[str]) -> str | None:
        """A target that is no label."""
        if item.target in labels:
            return None
        return f"Its target {item.target[:60]!r} is not among the labels. Correct it, or add it."


class Choice(Scoring, frozen=True, kw_only=True, tag="choice"):
    """One of the choices of each question."""

    answer: Literal["letter", "mention"] = "letter"
    """`letter`: the answer begins with the letter of a choice, or is a choice. `mention`: the first
    choice that the answer mentions counts."""
    uses: ClassVar[frozenset[str]] = frozenset({"choices"})

    def read(self, text: str, item: Expected) -> str:
        """The choice, in its own words; the text itself if it is none of them."""
        found = text[:MAX_READ].strip()
        place = (_lettered if self.answer == "letter" else _mentioned)(found, item.choices)
        return found if place is None else item.choices[place]

    def right(self, text: str, item: Expected) -> bool:
        """Whether the right one is chosen."""
        return self.read(text, item) == item.target

    def fault(self, item: Expected, labels: Sequence[str]) -> str | None:
        """Choices that cannot be distinguished, or of which none is the target."""
        del labels
        if len(item.choices) < 2 or len({_folded(choice) for choice in item.choices}) < len(
            item.choices
        ):
            return "It needs two or more different choices."
        if item.target not in item.choices:
            return f"Its target {item.target[:60]!r} is none of its choices."
        if not all(_folded(choice) for choice in item.choices):
            return "A choice has no letters or digits."
        return None


class Numeric(Scoring, frozen=True, kw_only=True, tag="numeric"):
    """A number that is off by at most `absolute`, or by `relative` times the target's size."""

    absolute: Tolerance = 0.0
    relative: Tolerance = 0.0
    take: Literal["only", "first", "last"] = "only"
    """Which number of an answer counts: `only` takes answers with just one."""
    uses: ClassVar[frozenset[str]] = frozenset({"accepted"})

    def read(self, text: str, item: Expected) -> str:
        """The number, as digits; the text itself if there is none."""
        del item
        number = number_in(text, self.take)
        return text[:MAX_READ].strip() if number is None else str(number.normalize())

    def right(self, text: str, item: Expected) -> bool:
        """Whether the number is near enough to the target or to an accepted one."""
        number = number_in(text, self.take)
        if number is None:
            return False
        wanted = [number_in(answer, "only") for answer in (item.target, *item.accepted)]
        return any(self._near(number, target) for target in wanted if target is not None)

    def fault(self, item: Expected, labels: Sequence[str]) -> str | None:
        """A target that is no number."""
        del labels
        for answer in (item.target, *item.accepted):
            if number_in(answer, "only") is None:
                return f"{answer[:60]!r} is not one number. Write digits, such as 12.5."
        return None

    def _near(self, number: Decimal, target: Decimal) -> bool:
        allowed = max(Decimal(str(self.absolute)), Decimal(str(self.relative)) * abs(target))
        return abs(number - target) <= allowed


class Pattern(Scoring, frozen=True, kw_only=True, tag="pattern"):
    """An answer must match one of the item's `match` patterns, if it has any, and none of `never`.

    Without patterns of its own, an item has those that are written here.
    """

    match: Patterns = ()
    never: Patterns = ()
    where: Literal["whole", "anywhere"] = "anywhere"
    """Whether the whole answer must match one of `match`, or any part of it. `never` is looked for
    anywhere."""
    ignore_case: bool = True
    uses: ClassVar[frozenset[str]] = frozenset({"match", "never"})

    def right(self, text: str, item: Expected) -> bool:
        """Whether it matches what it must, and nothing that it must not. Above 20,000 characters
        it is wrong: what stands there is not read."""
        if len(text) > MAX_READ:
            return False
        wanted, never = item.match or self.match, item.never or self.never
        if any(compiled(one, self.ignore_case).found_in(text) for one in never):
            return False
        if not wanted:
            return True
        if self.where == "whole":
            return any(compiled(one, self.ignore_case).matches(text.strip()) for one in wanted)
        return any(compiled(one, self.ignore_case).found_in(text) for one in wanted)

    def fault(self, item: Expected, labels: Sequence[str]) -> str | None:
        """Patterns that are none, or that contradict the item's own target."""
        del labels
        wanted, never = item.match or self.match, item.never or self.never
        if not wanted and not never:
            return "It has no pattern. Write match or never, or both."
        states = 0
        for one in (*wanted, *never):
            try:
                states += compiled(one, self.ignore_case).states
            except UnsafePattern as error:
                return f"Pattern {one[:60]!r}: {error}."
            if states > MAX_STATES:
                return f"Its patterns have more than {MAX_STATES} states together. Shorten them."
        if item.target and not self.right(item.target, item):
            return "Its own target does not pass its patterns. Correct one of them."
        return None

    def cost(self, item: Expected) -> int:
        """To read the patterns, and to try each on every letter of the target."""
        states = 0
        for one in (*(item.match or self.match), *(item.never or self.never)):
            try:
                states += compiled(one, self.ignore_case).states
            except UnsafePattern:
                states += MAX_STATES
            if states > MAX_STATES:
                break
        return states * (len(item.target) + READING)


class Vocabulary(Scoring, frozen=True, kw_only=True, tag="vocabulary"):
    """A free answer holds no code that reads like one of a vocabulary's and is none."""

    of: Literal["icd-10-cm", "us-reporters", "us-gaap"]

    def right(self, text: str, item: Expected) -> bool:
        """Whether nothing is invented. Raises `SourceUnavailable` if the list cannot be had."""
        from adapters.packs.vocabularies import invented

        del item
        return not invented(self.of, text[:MAX_READ])

    def fault(self, item: Expected, labels: Sequence[str]) -> str | None:
        """No target is needed."""
        del item, labels
        return None


class Rubric(Scoring, frozen=True, kw_only=True, tag="rubric"):
    """Weighted criteria, those of the task and those of each item."""

    criteria: Annotated[tuple[Criterion, ...], Meta(max_length=50)] = ()
    passes: Annotated[float, Meta(gt=0, le=1)] = 0.8
    """The share of the weights that an answer must reach."""
    judge: Literal["experts", "model"] = "experts"
    """`model`: a model judges, and the tally's name says so; no gate takes it for experts'."""
    model: Annotated[str, Meta(max_length=200)] = ""
    """The judging model, as the server names it; needed with `judge: model`."""
    uses: ClassVar[frozenset[str]] = frozenset({"criteria"})

    def right(self, text: str, item: Expected) -> None:
        """No rule can tell: somebody must judge."""
        del text, item

    def fault(self, item: Expected, labels: Sequence[str]) -> str | None:
        """Criteria by which nobody can judge: with those of the task, too."""
        del labels
        wrong = fault_of(self.all_of(item))
        return wrong and f"It {wrong}"

    def all_of(self, item: Expected) -> tuple[Criterion, ...]:
        """The criteria of the task, then those of the item."""
        return (*self.criteria, *item.criteria)

    def share(self, met: Sequence[bool], item: Expected) -> Fraction:
        """As `criteria.earned_share`, for all criteria of the task and the item."""
        return earned_share(self.all_of(item), met)

    def passed(self, met: Sequence[bool], item: Expected) -> bool:
        """Whether that share is at least `passes`."""
        return is_enough(self.share(met, item), self.passes)


class Harness(Scoring, frozen=True, kw_only=True, tag="harness"):
    """lm-evaluation-harness scores it, as `harness.yaml` says."""

    def right(self, text: str, item: Expected) -> None:
        """The harness decides."""
        del text, item

    def fault(self, item: Expected, labels: Sequence[str]) -> str | None:
        """Its items are rows of any form."""
        del item, labels
        return None


AnyScoring = Exact | Label | Choice | Numeric | Pattern | Vocabulary | Rubric | Harness
KINDS: Mapping[str, type[Scoring]] = {
    str(kind.__struct_config__.tag): kind
    for kind in (Exact, Label, Choice, Numeric, Pattern, Vocabulary, Rubric, Harness)
}


def number_in(text: str, take: Literal["only", "first", "last"]) -> Decimal | None:
    """The number that a text gives; None for none, for one of too many digits, and, with `only`,
    for several. Commas separate thousands."""
    found = [match[0] for match in _NUMBER.finditer(text[:MAX_READ])]
    if not found or (take == "only" and len(found) > 1):
        return None
    digits = found[-1 if take == "last" else 0].replace(",", "").replace("\u2212", "-")
    if len(digits) > MAX_DIGITS:
        return None
    try:
        return Decimal(digits)
    except InvalidOperation:
        return None


def _lettered(text: str, choices: Sequence[str]) -> int | None:
    """The place of the choice whose letter a text begins with, or which it is."""
    by_words = [_folded(choice) for choice in choices]
    if (words := _folded(text)) in by_words:
        return by_words.index(words)
    bare = text.lstrip("([ \t\"'*")
    letter, after = bare[:1], bare[1:2]
    if after.isalnum() or not letter:
        return None
    place = LETTERS.find(letter.upper())
    # "A plain film" begins with an article, no letter: a sign or nothing must follow.
    if letter.upper() in "AI" and after == " ":
        return None
    return place if 0 <= place < len(choices) else None


def _mentioned(text: str, choices: Sequence[str]) -> int | None:
    """The place of the choice that is mentioned first; of those at one place the longest."""
    words = f" {_folded(text)} "
    found = []
    for place, choice in enumerate(choices):
        wanted = _folded(choice)
        at = words.find(f" {wanted} ") if wanted else -1
        if at >= 0:
            found.append((at, -len(wanted), place))
    return min(found)[2] if found else None


def _folded(text: str) -> str:
    """Words in lower case, one blank between them, without articles at the beginning."""
    words = re.findall(r"\w+", text.casefold())
    while len(words) > 1 and words[0] in _ARTICLES:
        words = words[1:]
    return " ".join(words)
