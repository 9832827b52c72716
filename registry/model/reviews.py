"""Expert reviews: opened, judged, closed, and their texts erased.

What a review's judgements mean stands in `registry.model.reviewing`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated

import msgspec
from annotated_types import Ge, Le, MaxLen, MinLen

from adapters.fields import Count, Digest, Name, Number
from adapters.names import AdapterRef
from registry import errors
from registry.model.access import Role
from registry.model.base import Command, Draft, Event, Route, made_of
from registry.model.catalog import Catalog, in_good_standing, person
from registry.model.collection import spare
from registry.model.index import of_review
from registry.model.reviewing import (
    MAX_CRITERIA,
    MAX_ITEMS,
    MAX_WITHDRAWN,
    Judgement,
    Preference,
    Review,
    Verdict,
    wants,
)
from registry.model.standing import authors


class ReviewOpened(Event, frozen=True):
    """Experts are asked about answers of one version, or of two side by side."""

    optional = True
    review: str
    domain: str
    adapter: str
    versions: tuple[int, ...]
    title: str
    items: tuple[str, ...]
    """Ids; what is asked and answered stands in the content."""
    content: str
    """Digest of the blob with the items."""
    keep_days: int | None = None

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Add the review."""
        review = made_of(Review, self, id=self.review, opened=at, opener=by)
        draft.reviews[self.review] = review
        path = f"{self.domain}/{self.adapter}"
        for number in self.versions:
            draft.version(path, number)
        draft.learn(*of_review(review, draft.adapters[path].versions))


class ItemJudged(Event, frozen=True):
    """An expert's judgement of one item; verdicts in the order of the review's versions."""

    optional = True
    review: str
    item: str
    verdicts: tuple[Verdict, ...]
    severity: int = 0
    preferred: Preference = "neither"
    notes: str | None = None
    """Digest of the blob with what the expert wrote."""
    met: tuple[tuple[bool, ...], ...] = ()
    """For each answer, which of the item's criteria are met; empty for items without criteria."""

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Add the judgement."""
        review = draft.reviews[self.review]
        judgement = made_of(Judgement, self, expert=by, time=at)
        draft.reviews[self.review] = msgspec.structs.replace(
            review, judgements=(*review.judgements, judgement)
        )
        if self.notes is not None:
            draft.learn(("notes", self.notes, self.review))


class JudgementWithdrawn(Event, frozen=True):
    """An expert took back a judgement."""

    optional = True
    review: str
    item: str

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Settle nothing by it any more."""
        review, who = draft.reviews[self.review], person(draft.keys, by)
        mine = [j for j in review.of(self.item) if person(draft.keys, j.expert) == who]
        draft.reviews[self.review] = msgspec.structs.replace(
            review,
            judgements=tuple(j for j in review.judgements if j not in mine),
            withdrawn=(*review.withdrawn, *mine),
        )


class ReviewClosed(Event, frozen=True):
    """No more judgements are accepted."""

    optional = True
    review: str

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Close the review."""
        draft.reviews[self.review] = msgspec.structs.replace(draft.reviews[self.review], closed=at)


class ReviewErased(Event, frozen=True):
    """Its texts were given up; the verdicts stay."""

    optional = True
    review: str

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Forget where the texts lie."""
        review = draft.reviews[self.review]
        erased = review.content or review.erased
        draft.reviews[self.review] = msgspec.structs.replace(review, content=None, erased=erased)


class OpenReview(Command, frozen=True):
    """Ask experts about answers of one version, or of two side by side.

    `content` is the digest of a stored blob with the items, whose ids are `items`.
    """

    event = ReviewOpened
    role = "evaluate"
    review: Name
    domain: Name
    adapter: Name
    versions: Annotated[tuple[Number, ...], MinLen(1), MaxLen(2)]
    title: Name
    items: Annotated[tuple[Name, ...], MinLen(1), MaxLen(MAX_ITEMS)]
    content: Digest
    keep_days: Annotated[int, Ge(0), Le(10_000)] | None = None
    read_at: Count = 0
    """As for `PublishVersion`."""

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Open it, about versions that exist and items that differ."""
        if self.review in catalog.reviews:
            raise errors.Conflict(f"There is a review {self.review}. Open another.")
        if len(set(self.versions)) < len(self.versions):
            raise errors.BadRequest("A review shows answers of one version, or of two. Name them.")
        for number in self.versions:
            catalog.find(AdapterRef(self.domain, self.adapter, version=number))
        if len(set(self.items)) < len(self.items):
            raise errors.BadRequest(
                f"A review has 1 to {MAX_ITEMS} items, each once. Choose fewer."
            )
        if not self.title.strip():
            raise errors.BadRequest("A review's title has 1 to 200 characters. Give one.")
        spare(catalog, {self.content}, self.read_at)
        yield self.caused(title=self.title.strip())


class JudgeItem(Command, frozen=True):
    """Judge an item's answers; verdicts in the order of the versions."""

    event = ItemJudged
    role = "review"
    review: Name
    item: Name
    verdicts: Annotated[tuple[Verdict, ...], MinLen(1), MaxLen(2)]
    severity: Annotated[int, Ge(0), Le(3)] = 0
    preferred: Preference = "neither"
    notes: Digest | None = None
    read_at: Count = 0
    """As for `PublishVersion`."""
    met: Annotated[tuple[Annotated[tuple[bool, ...], MaxLen(MAX_CRITERIA)], ...], MaxLen(2)] = ()
    """For each answer, which of the item's criteria are met. `registry.http.reviews` compared it
    with the item, which the catalog does not hold."""

    def needs(self, catalog: Catalog) -> tuple[Role, str]:
        """The role in the review's domain."""
        return self.role, find(catalog, self.review).domain

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """An expert's judgement of an item; never a publisher's of their own version."""
        review = find(catalog, self.review)
        persons = holders(catalog)
        for number in review.versions:
            version = catalog.find(AdapterRef(review.domain, review.adapter, version=number))
            if persons.get(by, by) in authors(catalog, version):
                raise errors.Forbidden(
                    f"You published {'one of ' * (len(review.versions) > 1)}what this review is "
                    "about and cannot judge it. Ask a colleague."
                )
        if self.item not in review.items:
            raise errors.BadRequest(f"The review has no item {self.item[:80]!r}. Take the next.")
        if review.closed is not None:
            raise errors.Conflict("This review is closed. Ask whoever opened it for another.")
        if not wants(review, counted(catalog, review).of(self.item), by, persons):
            raise errors.Conflict(
                "This item is settled, or you judged it before. Take the next, or withdraw your "
                "judgement first."
            )
        if len(self.verdicts) != len(review.versions) or (
            self.met and len(self.met) != len(review.versions)
        ):
            raise errors.BadRequest(
                f"The review shows {len(review.versions)} answer(s). Judge each."
            )
        if "harmful" in self.verdicts and self.severity == 0:
            raise errors.BadRequest(
                "An answer was judged harmful, so its harm is not none. Choose severity 1 (slight) "
                "to 3 (grave)."
            )
        if self.notes is not None:
            spare(catalog, {self.notes}, self.read_at)
        yield self.caused()


class WithdrawJudgement(Command, frozen=True):
    """Take back one's own judgement of an item, while the review is open."""

    event = JudgementWithdrawn
    role = "review"
    route = Route("DELETE", "/reviews/{review}/judgements/{item}")
    review: Name
    item: Name

    def needs(self, catalog: Catalog) -> tuple[Role, str]:
        """The role in the review's domain."""
        return self.role, find(catalog, self.review).domain

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Withdraw it, by whichever of the expert's keys it was given."""
        review, persons = find(catalog, self.review), holders(catalog)
        if review.closed is not None:
            raise errors.Conflict(
                "This review is closed: its judgements stay as they are. If an answer was called "
                "harmful by mistake, ask an approver to decide so."
            )
        who = persons.get(by, by)
        if all(persons.get(j.expert, j.expert) != who for j in review.of(self.item)):
            raise errors.Conflict(f"You have not judged the item {self.item[:80]!r}. Judge it.")
        own = [j for j in review.withdrawn if persons.get(j.expert, j.expert) == who]
        if sum(j.item == self.item for j in own) >= MAX_WITHDRAWN:
            raise errors.Conflict(
                f"You withdrew {MAX_WITHDRAWN} judgements of this item. The last one stays."
            )
        yield self.caused()


class CloseReview(Command, frozen=True):
    """Accept no more judgements; whose answers they were may then be shown."""

    event = ReviewClosed
    role = "evaluate"
    route = Route("POST", "/reviews/{review}/closing")
    review: Name

    def needs(self, catalog: Catalog) -> tuple[Role, str]:
        """The role in the review's domain."""
        return self.role, find(catalog, self.review).domain

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Close it; again changes nothing."""
        if find(catalog, self.review).closed is None:
            yield self.caused()


class EraseReview(Command, frozen=True):
    """Give up the texts of a review that has ended; verdicts stay."""

    event = ReviewErased
    route = Route("POST", "/reviews/{review}/erasure")
    review: Name

    def needs(self, catalog: Catalog) -> tuple[Role, str]:
        """The role in the review's domain."""
        return self.role, find(catalog, self.review).domain

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Erase them; again changes nothing."""
        review = find(catalog, self.review)
        if review.content is None:
            return
        if review.closed is None:
            raise errors.Conflict("Experts still need its texts. Close the review first.")
        yield self.caused()


def find(catalog: Catalog, review: str) -> Review:
    """The review; raises `UnknownReview`."""
    found = catalog.reviews.get(review)
    if found is None:
        raise errors.UnknownReview(f"There is no review {review[:40]!r}. See `lorary review ls`.")
    return found


def counting(catalog: Catalog, review: Review) -> Callable[[str], bool]:
    """Whether the judgements by a key settle anything: not if it was revoked, nor if its holder is
    an author of the weights of one of the review's versions, whenever they became one."""
    published = set[str]()
    for number in review.versions:
        version = catalog.find(AdapterRef(review.domain, review.adapter, version=number))
        published |= authors(catalog, version)

    def counts(key: str) -> bool:
        return in_good_standing(catalog.keys, key) and person(catalog.keys, key) not in published

    return counts


def counted(catalog: Catalog, review: Review) -> Review:
    """The review with only the judgements that settle anything. What the others judged is judged
    again."""
    counts = counting(catalog, review)
    judgements = tuple(j for j in review.judgements if counts(j.expert))
    return msgspec.structs.replace(review, judgements=judgements)


def holders(catalog: Catalog) -> Mapping[str, str]:
    """The person who holds each key."""
    return {key: person(catalog.keys, key) for key in catalog.keys}
