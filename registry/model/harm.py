"""Findings of harm, and the decisions stated about them once their review is closed. Pure.

A finding is an answer that experts settled as harmful, or that one of them judged harmful and
nobody settled. It keeps the weights from guarded aliases. While its review is open, further experts
settle it; afterwards only a stated decision can. Three may be stated: the answer does no harm, the
harm stands, or it is accepted for this one version.

A finding is lifted when as many people lift it as say that there is harm: the experts who judged
the answer harmful, and those who decided that the harm stands. So nobody lifts alone what two
experts found, and nobody alone blocks a version forever. People are counted, not keys; of each,
the newest decision counts. Neither an author of the weights decides, nor an expert who judged the
item: the authors' work and the experts' own judgement are what the decision is about.
"""

import itertools
from collections.abc import Iterable, Iterator

import msgspec

from adapters.fields import Name, Number, Reason
from adapters.names import AdapterRef
from registry import errors
from registry.model.access import Role
from registry.model.base import Command, Draft, Event, Route, made_of
from registry.model.catalog import Catalog, Version, in_good_standing, person
from registry.model.reviewing import HarmDecision, Review, Ruling, is_harmful
from registry.model.reviews import counting, find
from registry.model.standing import authors

RULINGS: dict[Ruling, str] = {
    "not-harm": "not harm",
    "stands": "harm stands",
    "accepted": "accepted for this version",
}
"""What may be decided, in words."""
MOST = 20
"""Decisions of one person about one finding: nobody uses up what others have."""


class Harm(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that experts found harmful, and what was decided about it."""

    review: Review
    item: str
    place: int
    """Of the version among the review's."""
    experts: frozenset[str]
    """The people who judged the answer harmful."""
    judged: frozenset[str]
    """All who judged the item, also if they withdrew it."""
    barred: frozenset[str]
    """Those, and the authors of the weights: they do not decide about it."""
    severity: int
    """The highest that one of those experts gave."""
    decisions: tuple[HarmDecision, ...]
    """The newest of each person who may decide, in the order of their time."""

    @property
    def number(self) -> int:
        """Of the version that gave the answer."""
        return self.review.versions[self.place]

    def lifting(self, version: Version) -> int:
        """How many people lift the finding for `version`. Accepted is it for the version that was
        reviewed alone, not for others of the same weights."""
        reviewed = (self.review.domain, self.review.adapter, self.number)
        here = reviewed == (version.domain, version.adapter, version.number)
        return sum(
            d.ruling == "not-harm" or (here and d.ruling == "accepted") for d in self.decisions
        )

    @property
    def needed(self) -> int:
        """How many people must lift it: as many as say that there is harm."""
        return len(self.experts) + sum(d.ruling == "stands" for d in self.decisions)

    def blocks(self, version: Version) -> bool:
        """Whether it keeps `version` from guarded aliases."""
        return self.review.closed is None or self.lifting(version) < self.needed


def about(version: Version, catalog: Catalog) -> Iterator[tuple[Review, int]]:
    """The reviews of these weights, under any number and name they were published, each with their
    place among its versions."""
    index = catalog.index
    named = dict.fromkeys(name for w in version.weights for name in index.get("review", w))
    for review in (catalog.reviews[name] for name in named if name in catalog.reviews):
        versions = catalog.adapters[f"{review.domain}/{review.adapter}"].versions
        for place, number in enumerate(review.versions):
            if versions[number - 1].same_weights(version):
                yield review, place


def harm_of(version: Version, catalog: Catalog) -> list[Harm]:
    """Every finding of harm in answers of these weights, lifted or not."""
    found = (harm_in(review, place, catalog) for review, place in about(version, catalog))
    return list(itertools.chain.from_iterable(found))


def harm_in(review: Review, place: int, catalog: Catalog) -> Iterator[Harm]:
    """The findings of harm of one review in the answers of the version at `place`."""
    version = catalog.find(AdapterRef(review.domain, review.adapter, review.versions[place]))
    published, counts = authors(catalog, version), counting(catalog, review)
    for item, judgements in review.by_item().items():
        if not is_harmful(judgements, place, counts):
            continue
        harmful = [j for j in judgements if j.verdicts[place] == "harmful"]
        judged = frozenset(
            person(catalog.keys, j.expert) for j in review.recorded() if j.item == item
        )
        decided = (d for d in review.decisions if (d.item, d.version) == (item, version.number))
        yield Harm(
            review=review,
            item=item,
            place=place,
            experts=frozenset(person(catalog.keys, j.expert) for j in harmful),
            judged=judged,
            barred=judged | published,
            severity=max(j.severity for j in harmful),
            decisions=_newest(decided, judged | published, catalog),
        )


def _newest(
    decisions: Iterable[HarmDecision], barred: frozenset[str], catalog: Catalog
) -> tuple[HarmDecision, ...]:
    """Of each person who may decide, the newest decision by a key that was never revoked."""
    newest: dict[str, HarmDecision] = {}
    for decision in decisions:
        who = person(catalog.keys, decision.by)
        if who not in barred and in_good_standing(catalog.keys, decision.by):
            newest.pop(who, None)
            newest[who] = decision
    return tuple(newest.values())


class HarmDecided(Event, frozen=True):
    """Somebody decided what a finding of harm means for promotion."""

    optional = True
    review: str
    item: str
    version: int
    ruling: Ruling
    reason: str

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Add the decision to the review."""
        review = draft.reviews[self.review]
        decision = made_of(HarmDecision, self, by=by, time=at)
        draft.reviews[self.review] = msgspec.structs.replace(
            review, decisions=(*review.decisions, decision)
        )


class DecideHarm(Command, frozen=True):
    """Decide what a finding of harm in a closed review means, with the reason: `not-harm`,
    `stands`, or `accepted` for this version alone.

    Takes the role `approve`, as an approval does: a decision that admits a version to production
    against an expert's finding is made by a named person.
    """

    event = HarmDecided
    role = "approve"
    route = Route("POST", "/reviews/{review}/decisions", 201)
    review: Name
    item: Name
    version: Number
    """Which of the review's versions gave the answer."""
    ruling: Ruling
    reason: Reason

    def needs(self, catalog: Catalog) -> tuple[Role, str]:
        """The role in the review's domain."""
        return self.role, find(catalog, self.review).domain

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """State it; the same again by the same person changes nothing."""
        review = find(catalog, self.review)
        if review.closed is None:
            # Whatever the item: the findings of an open review are not disclosed.
            raise errors.Conflict(
                "This review is open, and its experts settle what they find. Decide once it is "
                f"closed: lorary review close {review.id}"
            )
        if self.version not in review.versions or self.item not in review.items:
            raise errors.BadRequest(
                f"Review {review.id} has no answer of version {self.version} to item "
                f"{self.item[:80]!r}. See lorary review show {review.id}"
            )
        if not self.reason.strip():
            raise errors.BadRequest("A decision about harm has a reason. Give it.")
        who = person(catalog.keys, by)
        version = catalog.find(AdapterRef(review.domain, review.adapter, self.version))
        if who in authors(catalog, version):
            raise errors.Forbidden(
                f"You published the weights of {version.ref} and cannot decide about harm in their "
                "answers. Ask an approver who did not."
            )
        place = review.versions.index(self.version)
        found = next((h for h in harm_in(review, place, catalog) if h.item == self.item), None)
        if found is None:
            raise errors.Conflict(
                "Experts did not find this answer harmful: there is nothing to decide. See "
                f"lorary review show {review.id}"
            )
        if who in found.judged:
            raise errors.Forbidden(
                "You judged this item and cannot decide about the finding. Ask an approver who did "
                "not."
            )
        mine = next((d for d in found.decisions if person(catalog.keys, d.by) == who), None)
        reason = self.reason.strip()
        if mine is not None and (mine.ruling, mine.reason) == (self.ruling, reason):
            return
        stated = sum(
            (d.item, d.version) == (self.item, self.version) and person(catalog.keys, d.by) == who
            for d in review.decisions
        )
        if stated >= MOST:
            raise errors.Conflict(
                f"You stated {MOST} decisions about this finding. No more fit. Others may decide."
            )
        yield self.caused(reason=reason)
