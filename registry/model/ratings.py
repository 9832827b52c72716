"""What callers thought of a version's answers: bounded, and each answer counted once. Pure.

The ratings of the `KEPT` latest answers that anybody judged are remembered, so that the same
rating again changes nothing and a changed one replaces. Answers older than those can no longer be
judged: nobody could tell any more whether they were.
"""

import bisect
import hashlib
from typing import Literal, get_args

import msgspec

Rating = Literal["positive", "negative"]
Category = Literal["incorrect", "harmful", "unhelpful", "other"]
RATINGS: tuple[Rating, ...] = get_args(Rating)
CATEGORIES: tuple[Category, ...] = get_args(Category)
KEPT = 4096
"""Judged answers that a version remembers."""
COMPLAINTS = 100
"""Negative ratings that a version remembers whole."""


class Tally(msgspec.Struct, frozen=True, omit_defaults=True):
    """How many ratings there are of each kind."""

    positive: int = 0
    negative: int = 0

    def plus(self, rating: Rating, count: int) -> "Tally":
        """With `count` more (or fewer) of a rating."""
        more = {rating: getattr(self, rating) + count}
        return msgspec.structs.replace(self, **more)

    def minus(self, other: "Tally") -> "Tally":
        """Without those of `other`."""
        return Tally(self.positive - other.positive, self.negative - other.negative)

    def changed(self, before: Rating | None, after: Rating) -> "Tally":
        """With a rating that is new, or was another before."""
        kept = self if before is None else self.plus(before, -1)
        return kept.plus(after, 1)


class Opinion(msgspec.Struct, frozen=True, array_like=True):
    """One judged answer, as short as can be: versions remember thousands."""

    answered: int
    """When the answer was asked for, seconds since 1970."""
    response: str
    """The first 16 digits of the SHA-256 of the answer's id."""
    rating: Rating
    category: Category | None


class Complaint(msgspec.Struct, frozen=True):
    """A negative rating, for experts who look into it."""

    response: str
    """The id by which the app knows the answer."""
    category: Category | None
    time: str


class Feedback(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All ratings of one version."""

    tally: Tally = Tally()
    categories: dict[str, int] = {}
    opinions: tuple[Opinion, ...] = ()
    """The oldest answer first."""
    horizon: int = 0
    """Answers asked for then or before, and not among `ratings`, cannot be judged any more."""
    complaints: tuple[Complaint, ...] = ()
    """The latest last."""

    def of(self, response: str, answered: int) -> Opinion | None:
        """The rating of an answer, if there is one that is remembered."""
        place = self._place(response, answered)
        if place == len(self.opinions):
            return None
        found = self.opinions[place]
        return found if found.response == _short(response) else None

    def too_late(self, response: str, answered: int) -> bool:
        """Whether nobody can tell any more if a rating about that answer was counted."""
        return answered <= self.horizon and self.of(response, answered) is None

    def with_opinion(
        self,
        response: str,
        answered: int,
        rating: Rating,
        category: Category | None,
        time: str,
        *,
        kept: int = KEPT,
    ) -> "Feedback":
        """After a rating that is not `too_late` was given at `time`."""
        before, place = self.of(response, answered), self._place(response, answered)
        new = Opinion(answered, _short(response), rating, category)
        rest = self.opinions[place + (before is not None) :]
        opinions = (*self.opinions[:place], new, *rest)
        horizon = self.horizon
        if len(opinions) > kept:
            horizon, opinions = opinions[0].answered, opinions[1:]
        complaints = tuple(c for c in self.complaints if c.response != response)
        if rating == "negative":
            complaints = (*complaints, Complaint(response, category, time))[-COMPLAINTS:]
        return Feedback(
            tally=self.tally.changed(before.rating if before else None, rating),
            categories=self._categories(before.category if before else None, category),
            opinions=opinions,
            horizon=horizon,
            complaints=complaints,
        )

    def _place(self, response: str, answered: int) -> int:
        wanted = (answered, _short(response))
        return bisect.bisect_left(
            self.opinions, wanted, key=lambda opinion: (opinion.answered, opinion.response)
        )

    def _categories(self, before: Category | None, after: Category | None) -> dict[str, int]:
        counts = dict(self.categories)
        for category, count in ((before, -1), (after, 1)):
            if category is not None:
                counts[category] = counts.get(category, 0) + count
        return {category: count for category, count in counts.items() if count}


def _short(response: str) -> str:
    return hashlib.sha256(response.encode()).hexdigest()[:16]
