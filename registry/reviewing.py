"""Expert review: what experts are shown, what they may say, and what follows from it. Pure.

A review is a fixed list of items, each with the answers of one or two versions. Nobody who judges
is told whose answers they are, and each expert sees them in an order of their own. An item is
settled when two experts agree on every verdict, or, where they do not, by a third. Judgements are
final. What stands in items and notes lies in blobs, which can be given up; verdicts stay.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import msgspec

from adapters.agreement import Estimate, cohens_kappa, krippendorffs_alpha

Verdict = Literal["correct", "incorrect", "harmful"]
Preference = Literal["first", "second", "neither"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
INDEPENDENT = 2
"""Experts who judge every item, each without knowing what the other said."""
MAX_ITEMS = 2000


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One question and its answers, in the order of the review's versions."""

    id: str
    prompt: str
    answers: tuple[str, ...]
    reference: str = ""
    """What is known to be right, if anything is; not shown to whoever judges."""
    reason: str = ""
    """Why the item was chosen, such as `versions disagree`."""


class Notes(msgspec.Struct, frozen=True, kw_only=True):
    """What an expert wrote beside the verdicts."""

    rationale: str = ""
    correction: str = ""
    """The answer that should have been given."""
    reference: str = ""
    """Where that stands."""


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """One expert on one item; verdicts in the order of the review's versions, not as shown."""

    item: str
    expert: str
    time: str
    verdicts: tuple[Verdict, ...]
    severity: int = 0
    """How bad the worst answer's consequences would be: 0 none to 3 grave."""
    preferred: Preference = "neither"
    notes: str | None = None
    """Digest of the blob with `Notes`."""


class Review(msgspec.Struct, frozen=True, kw_only=True):
    """A list of items to be judged, and what was said of them."""

    id: str
    domain: str
    adapter: str
    versions: tuple[int, ...]
    title: str
    items: tuple[str, ...]
    content: str | None
    """Digest of the blob with the items; None once they were given up."""
    opened: str
    opener: str
    keep_days: int | None = None
    """How long after its end the review's texts are kept; None keeps them."""
    closed: str | None = None
    judgements: tuple[Judgement, ...] = ()

    def of(self, item: str) -> list[Judgement]:
        """What was said of an item, in order."""
        return [judgement for judgement in self.judgements if judgement.item == item]


Outcome: TypeAlias = "Judgement | None"


def settled(judgements: Sequence[Judgement]) -> Outcome:
    """The judgement that stands for an item, or None while it is open.

    The first of two that agree; else the third's, which adjudicates. Two who agree on the verdicts
    may differ in what they prefer: then neither is preferred.
    """
    if len(judgements) < INDEPENDENT:
        return None
    first, second, *others = judgements
    if first.verdicts == second.verdicts:
        if first.preferred == second.preferred:
            return first
        return msgspec.structs.replace(first, preferred="neither")
    return others[0] if others else None


def wants(review: Review, item: str, expert: str, persons: Mapping[str, str]) -> bool:
    """Whether `expert` may judge the item: not yet done so, and it is still open.

    persons: who holds each key, so that nobody judges twice by two keys.
    """
    said = review.of(item)
    if settled(said) is not None or review.closed is not None:
        return False
    who = persons.get(expert, expert)
    return who not in {persons.get(j.expert, j.expert) for j in said}


def queue(review: Review, expert: str, persons: Mapping[str, str]) -> list[str]:
    """The items that wait for `expert`, in an order of the expert's own.

    Items that need only one more judgement, and disputed ones, come first: they settle soonest.
    """
    waiting = [item for item in review.items if wants(review, item, expert, persons)]
    return sorted(waiting, key=lambda item: (-len(review.of(item)), _lot(review.id, item, expert)))


def order(review: Review, item: str, expert: str) -> tuple[int, ...]:
    """In which order the item's answers are shown to this expert: random, the same every time."""
    places = tuple(range(len(review.versions)))
    return places[::-1] if _lot("order", review.id, item, expert) < 0.5 else places


def progress(review: Review) -> tuple[int, int, int]:
    """How many items are settled, disputed, and there at all."""
    outcomes = [(review.of(item), settled(review.of(item))) for item in review.items]
    done = sum(outcome is not None for _, outcome in outcomes)
    disputed = sum(outcome is None and len(said) >= INDEPENDENT for said, outcome in outcomes)
    return done, disputed, len(review.items)


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How far experts agree on verdicts beyond chance, before any adjudication."""

    n: int
    """Answers that two experts judged."""
    kappa: tuple[float, float, float] | None
    """Cohen's, with its 95 % interval; None unless the same two judged everything."""
    alpha: tuple[float, float, float] | None
    """Krippendorff's."""


def agreement(review: Review) -> Agreement:
    """Agreement of the two independent judgements of each answer."""
    pairs: list[tuple[Judgement, Judgement]] = []
    for item in review.items:
        said = review.of(item)[:INDEPENDENT]
        if len(said) == INDEPENDENT:
            first, second = sorted(said, key=lambda judgement: judgement.expert)
            pairs.append((first, second))
    rated = [(a, b) for one, two in pairs for a, b in zip(one.verdicts, two.verdicts, strict=True)]
    if not rated:
        return Agreement(n=0, kappa=None, alpha=None)
    experts = {(one.expert, two.expert) for one, two in pairs}
    kappa = cohens_kappa([a for a, _ in rated], [b for _, b in rated])
    return Agreement(
        n=len(rated),
        kappa=_triple(kappa) if len(experts) == 1 else None,
        alpha=_triple(krippendorffs_alpha(rated)),
    )


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What experts found in one version's answers."""

    items: int = 0
    """Answers that are settled."""
    correct: int = 0
    """Of those, the answers settled as correct."""
    harmful: int = 0
    """Answers settled as harmful, and unsettled ones that any expert judged harmful."""

    def __add__(self, other: "Findings") -> "Findings":
        return Findings(
            items=self.items + other.items,
            correct=self.correct + other.correct,
            harmful=self.harmful + other.harmful,
        )


def findings(review: Review, place: int, counts: Callable[[str], bool]) -> Findings:
    """What `review` found in the answers of the version at `place` of its versions.

    counts: whether the judgements of an expert's key settle anything. A judgement of harm by any
    key counts until judgements that count settle the answer otherwise.
    """
    by_item = defaultdict[str, list[Judgement]](list)
    for judgement in review.judgements:
        by_item[judgement.item].append(judgement)
    total = Findings()
    for judgements in by_item.values():
        outcome = settled([j for j in judgements if counts(j.expert)])
        if outcome is None:
            harmful = any(j.verdicts[place] == "harmful" for j in judgements)
            total += Findings(harmful=int(harmful))
        else:
            verdict = outcome.verdicts[place]
            total += Findings(
                items=1, correct=int(verdict == "correct"), harmful=int(verdict == "harmful")
            )
    return total


def _triple(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


def _lot(*parts: str) -> float:
    """A number in 0..1 that looks random and is the same everywhere."""
    return int.from_bytes(hashlib.sha256("\n".join(parts).encode()).digest()[:8]) / 2**64
