"""Expert review: what experts are shown, what they may say, and what follows from it. Pure.

A review is a fixed list of items, each with the answers of one or two versions. Experts do not
learn whose answers they judge, and each expert sees them in a random order of their own. Neither
can be computed from what an expert can read: item ids are random, and the order follows from a
secret beside the item. Each answer is settled by itself: when two experts agree on its verdict, or,
where they do not, by a third. While the review is open an expert may withdraw a judgement, and
judge the item again. Items and notes lie in blobs, which can be deleted; verdicts stay.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import msgspec

from adapters.tasks.criteria import Criterion, earned_share, is_enough

if TYPE_CHECKING:
    from adapters.agreement import Estimate

Verdict = Literal["correct", "incorrect", "harmful"]
Preference = Literal["first", "second", "neither"]
Ruling = Literal["not-harm", "stands", "accepted"]
"""What may be decided about a finding of harm (`registry.model.harm`)."""
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
SEVERITIES = ("none", "slight", "serious", "grave")
"""How much harm an answer could do, by the number that is recorded."""
INDEPENDENT = 2
"""Experts who judge every item, each without knowing the other's judgement."""
MAX_ITEMS = 2000
MAX_WITHDRAWN = 3
"""How often one expert may withdraw a judgement of one item."""
MAX_CRITERIA = 100
"""Criteria of one item: those of a rubric and those of the item itself."""


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One question and its answers, in the order of the review's versions."""

    id: str
    prompt: str
    answers: tuple[str, ...]
    reference: str = ""
    """What is known to be right, if anything is; not shown to whoever judges."""
    reason: str = ""
    """Why the item was chosen, such as `versions disagree`."""
    secret: str = ""
    """Random; decides in which order each expert sees the answers. Empty in reviews opened before
    there were secrets."""
    criteria: tuple[Criterion, ...] = ()
    """What a rubric asks of each answer, shown to experts; empty where they judge it as a whole."""
    passes: float = 1.0
    """The share of the weights that an answer must reach to be correct."""

    def verdict(self, met: Sequence[bool]) -> Verdict:
        """What follows for an answer from the criteria that it meets, unless it is harmful.

        Raises `ValueError` for another number of judgements than there are criteria.
        """
        share = earned_share(self.criteria, met)
        return "correct" if is_enough(share, self.passes) else "incorrect"


class Notes(msgspec.Struct, frozen=True, kw_only=True):
    """What an expert wrote beside the verdicts."""

    rationale: str = ""
    correction: str = ""
    """The answer that should have been given."""
    reference: str = ""
    """Where that stands."""
    secret: str = ""
    """Random, so that nobody can guess the blob's digest and ask whether it is stored."""


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """One expert on one item; verdicts in the order of the review's versions, not as shown."""

    item: str
    expert: str
    time: str
    verdicts: tuple[Verdict, ...]
    severity: int = 0
    """How much harm the worst answer could do: 0 none to 3 grave."""
    preferred: Preference = "neither"
    notes: str | None = None
    """Digest of the blob with `Notes`."""
    met: tuple[tuple[bool, ...], ...] = ()
    """For each answer, which of the item's criteria the expert found met; the verdict follows from
    it, unless that is `harmful`. Empty for items without criteria."""


class HarmDecision(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody decided about one answer that experts found harmful."""

    item: str
    version: int
    ruling: Ruling
    reason: str
    by: str
    time: str


class Review(msgspec.Struct, frozen=True, kw_only=True):
    """A list of items to be judged, and the judgements."""

    id: str
    domain: str
    adapter: str
    versions: tuple[int, ...]
    title: str
    items: tuple[str, ...]
    content: str | None
    """Digest of the blob with the items; None once they were given up."""
    erased: str | None = None
    """Digest of the blob that held them, which is no version's file as long as it is stored."""
    opened: str
    opener: str
    keep_days: int | None = None
    """How long after its end the review's texts are kept; None keeps them."""
    closed: str | None = None
    judgements: tuple[Judgement, ...] = ()
    withdrawn: tuple[Judgement, ...] = ()
    """By the experts themselves; they settle nothing."""
    decisions: tuple[HarmDecision, ...] = ()
    """About findings of harm, in the order of their time."""

    def by_item(self) -> dict[str, list[Judgement]]:
        """The judgements of every item, in the order of the items and of their time."""
        found = {item: list[Judgement]() for item in self.items}
        for judgement in self.judgements:
            found[judgement.item].append(judgement)
        return found

    def recorded(self) -> tuple[Judgement, ...]:
        """Every judgement, also those that were withdrawn."""
        return self.judgements + self.withdrawn

    def of(self, item: str) -> list[Judgement]:
        """The judgements of one item, in the order of their time."""
        return [judgement for judgement in self.judgements if judgement.item == item]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What stands for an item of which every answer is settled."""

    verdicts: tuple[Verdict, ...]
    """In the order of the review's versions."""
    preferred: Preference


def settled_verdict(judgements: Sequence[Judgement], place: int) -> Verdict | None:
    """The verdict that stands for the answer at `place`, or None while it is open.

    What the first two experts agree on stands, whatever a third says of it. Where they differ, the
    third decides. So `harmful` by two experts always stands: by the first two, or by one of them
    and the third.
    """
    verdicts = [judgement.verdicts[place] for judgement in judgements]
    if len(verdicts) >= INDEPENDENT and verdicts[0] == verdicts[1]:
        return verdicts[0]
    return verdicts[INDEPENDENT] if len(verdicts) > INDEPENDENT else None


def settled(judgements: Sequence[Judgement]) -> Outcome | None:
    """What stands for an item, or None while one of its answers is open.

    Two who agree on the verdicts may differ in what they prefer: then neither is preferred. Where
    a third decides, the third's preference stands, unless a verdict of the third does not.
    """
    if not judgements:
        return None
    verdicts = list[Verdict]()
    for place in range(len(judgements[0].verdicts)):
        verdict = settled_verdict(judgements, place)
        if verdict is None:
            return None
        verdicts.append(verdict)
    first, second, *others = judgements
    stands: Preference = "neither"
    if first.verdicts == second.verdicts:
        if first.preferred == second.preferred:
            stands = first.preferred
    elif others[0].verdicts == tuple(verdicts):
        stands = others[0].preferred
    return Outcome(verdicts=tuple(verdicts), preferred=stands)


def settled_jointly(review: Review) -> Review:
    """The review as earlier versions of Lorary settled it: where the first two differed about one
    answer, the third's verdicts stood for every answer of the item."""
    said = review.by_item()

    def stood(judgement: Judgement) -> Judgement:
        of_item = said[judgement.item]
        if len(of_item) <= INDEPENDENT or of_item[0].verdicts == of_item[1].verdicts:
            return judgement
        return msgspec.structs.replace(judgement, verdicts=of_item[INDEPENDENT].verdicts)

    return msgspec.structs.replace(review, judgements=tuple(map(stood, review.judgements)))


def wants(
    review: Review, judgements: Sequence[Judgement], expert: str, persons: Mapping[str, str]
) -> bool:
    """Whether `expert` may judge the item with these judgements: not judged by them yet, and open.

    persons: who holds each key, so that nobody judges twice by two keys.
    """
    if settled(judgements) is not None or review.closed is not None:
        return False
    who = persons.get(expert, expert)
    return who not in {persons.get(j.expert, j.expert) for j in judgements}


def queue(review: Review, expert: str, persons: Mapping[str, str]) -> list[str]:
    """The items that wait for `expert`, in a random order of the expert's own.

    The order does not depend on what others judged, which would tell where they differ. It follows
    from the digest of the items, a secret because it covers theirs.
    """
    waiting = [
        item
        for item, judgements in review.by_item().items()
        if wants(review, judgements, expert, persons)
    ]
    secret = review.content or ""
    who = persons.get(expert, expert)
    return sorted(waiting, key=lambda item: _fraction(secret, "queue", review.id, item, who))


def judged(review: Review, expert: str, persons: Mapping[str, str]) -> int:
    """How many items the person who holds the key `expert` judged."""
    who = persons.get(expert, expert)
    return sum(persons.get(j.expert, j.expert) == who for j in review.judgements)


def left(review: Review, expert: str, persons: Mapping[str, str]) -> int:
    """How many items `expert` has not judged; 0 as soon as none waits for them.

    Items that others settled count until then: without them the number would tell on how many
    others agreed.
    """
    if not queue(review, expert, persons):
        return 0
    return len(review.items) - judged(review, expert, persons)


def order(review: Review, item: Item, person: str) -> tuple[int, ...]:
    """In which order the item's answers are shown to this expert: random, the same every time, and
    by whichever of the person's keys."""
    places = tuple(range(len(review.versions)))
    fraction = _fraction(item.secret, "order", review.id, item.id, person)
    return places[::-1] if fraction < 0.5 else places


def progress(review: Review) -> tuple[int, int, int]:
    """How many items are settled, disputed, and there at all."""
    outcomes = [(said, settled(said)) for said in review.by_item().values()]
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
    for judgements in review.by_item().values():
        said = judgements[:INDEPENDENT]
        if len(said) == INDEPENDENT:
            first, second = sorted(said, key=lambda judgement: judgement.expert)
            pairs.append((first, second))
    rated = [(a, b) for one, two in pairs for a, b in zip(one.verdicts, two.verdicts, strict=True)]
    if not rated:
        return Agreement(n=0, kappa=None, alpha=None)
    from adapters.agreement import cohens_kappa, krippendorffs_alpha  # brings in numpy

    experts = {(one.expert, two.expert) for one, two in pairs}
    kappa = cohens_kappa([a for a, _ in rated], [b for _, b in rated])
    return Agreement(
        n=len(rated),
        kappa=_triple(kappa) if len(experts) == 1 else None,
        alpha=_triple(krippendorffs_alpha(rated)),
    )


def settled_verdicts(
    review: Review, place: int, counts: Callable[[str], bool]
) -> dict[str, Verdict]:
    """For each item whose answer at `place` of the review's versions is settled, the verdict.

    counts: whether the judgements of an expert's key settle anything.
    """
    found = dict[str, Verdict]()
    for item, judgements in review.by_item().items():
        verdict = settled_verdict([j for j in judgements if counts(j.expert)], place)
        if verdict is not None:
            found[item] = verdict
    return found


def is_harmful(judgements: Sequence[Judgement], place: int, counts: Callable[[str], bool]) -> bool:
    """Whether the answer at `place` of an item with these judgements was found harmful: settled
    so, or judged so by anybody while it is not settled.

    counts: as for `settled_verdicts`. A judgement of harm by any key counts until judgements that
    count settle the answer otherwise.
    """
    verdict = settled_verdict([j for j in judgements if counts(j.expert)], place)
    if verdict is None:
        return any(j.verdicts[place] == "harmful" for j in judgements)
    return verdict == "harmful"


def _triple(estimate: "Estimate") -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


def _fraction(secret: str, *parts: str) -> float:
    """A number in 0..1 that is random to whoever does not know `secret`, and always the same.

    Without a secret it is a plain digest that anybody can compute.
    """
    text = "\n".join(parts).encode()
    if secret:
        digest = hmac.digest(secret.encode(), text, "sha256")
    else:
        digest = hashlib.sha256(text).digest()
    return int.from_bytes(digest[:8]) / 2**64
