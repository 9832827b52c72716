"""Feedback: what callers thought of answers, and the canaries that it ends."""

from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec
from annotated_types import MaxLen, MinLen, Predicate

from adapters.fields import Count, Name, Number, is_text
from adapters.names import AdapterRef, check_alias
from registry import errors
from registry.model.base import Command, Draft, Event, Route
from registry.model.canary import rolled_back
from registry.model.catalog import Adapter, Catalog, person
from registry.model.ratings import Category, Rating, Tally
from registry.model.trials import Arm, Bounds, Evidence, Split, crosses


class FeedbackGiven(Event, frozen=True):
    """A caller's rating of one answer of a version; a later one about the same replaces it."""

    optional = True
    domain: str
    adapter: str
    version: int
    response: str
    """The answer's id, as the app got it."""
    answered: int
    """When it was asked for, seconds since 1970."""
    asker: str
    """The key that asked."""
    rating: Rating
    category: Category | None = None
    alias: str | None = None
    """The split alias that was asked for; None where a version was named, or nothing was split."""
    split: int = 0
    """Which of the adapter's splits chose the version; 0 where none did."""

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Count the rating for the version, and in the split that chose it."""
        path = f"{self.domain}/{self.adapter}"
        asker = person(draft.keys, self.asker)
        draft.version(path, self.version)
        draft.adapters[path] = _counted(draft.adapters[path], self, at, asker)


class GiveFeedback(Command, frozen=True):
    """Record what a caller thought of one answer. The same again changes nothing."""

    event = FeedbackGiven
    role = "serve"
    urgent = False
    route = Route("POST", "/adapters/{domain}/{adapter}/versions/{version}/feedback")
    domain: Name
    adapter: Name
    version: Number
    response: Annotated[str, MinLen(1), MaxLen(400), Predicate(is_text)]
    answered: Count
    asker: Name
    rating: Rating
    category: Category | None = None
    alias: Name | None = None
    split: Count = 0

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Count a rating once, and end every split whose candidate it brings across its bound."""
        version = catalog.find(AdapterRef(self.domain, self.adapter, version=self.version))
        if self.alias is not None:
            check_alias(self.alias)
        feedback = version.feedback
        if feedback.too_late(self.response, self.answered):
            raise errors.FeedbackTooLate(
                "That answer is older than all whose ratings are remembered. Judge later answers."
            )
        before = feedback.of(self.response, self.answered)
        if before and (before.rating, before.category) == (self.rating, self.category):
            return
        given = self.caused()
        assert isinstance(given, FeedbackGiven)  # noqa: S101
        yield given
        adapter = catalog.adapters[f"{self.domain}/{self.adapter}"]
        yield from _ended(_counted(adapter, given, now, person(catalog.keys, self.asker)))


def _counted(adapter: Adapter, event: FeedbackGiven, time: str, asker: str) -> Adapter:
    """The adapter after feedback of `asker`, a person, about an answer of one of its versions.

    It counts in the split that chose the version for a request of its alias, on the version's side.
    Feedback about pinned versions counts in no split: whoever names the candidate could otherwise
    decide alone what it is worth.
    """
    old = adapter.versions[event.version - 1]
    before = old.feedback.of(event.response, event.answered)
    was = before.rating if before else None
    feedback = old.feedback.with_opinion(
        event.response, event.answered, event.rating, event.category, time
    )
    versions = list(adapter.versions)
    versions[event.version - 1] = msgspec.structs.replace(old, feedback=feedback)
    splits = dict(adapter.splits)
    split = splits.get(event.alias or "")
    if split is not None and split.number == event.split:
        if event.version == split.candidate:
            of_asker = split.askers.get(asker, Tally()).changed(was, event.rating)
            split = msgspec.structs.replace(
                split,
                opinions=split.opinions.changed(was, event.rating),
                askers={**split.askers, asker: of_asker},
            )
        elif event.version == adapter.aliases.get(event.alias or ""):
            tally = split.stable_opinions.changed(was, event.rating)
            split = msgspec.structs.replace(split, stable_opinions=tally)
        splits[event.alias or ""] = split
    return msgspec.structs.replace(adapter, versions=tuple(versions), splits=splits)


def _ended(adapter: Adapter) -> Iterator[Event]:
    """The ends of splits whose candidates have too many negative ratings."""
    for alias, split in adapter.splits.items():
        if split.bounds is not None and _is_crossed(split, split.bounds):
            evidence = _evidence(split, split.opinions)
            yield rolled_back(adapter, alias, split, "negative_share", evidence)


def _is_crossed(split: Split, bounds: Bounds) -> bool:
    """Whether enough askers gave the candidate too many negative ratings, and no one of them
    alone makes the difference."""
    if len(split.askers) < bounds.min_askers:
        return False
    without = split.askers.values() if bounds.min_askers > 1 else ()
    tallies = [split.opinions, *(split.opinions.minus(tally) for tally in without)]
    return all(crosses("negative_share", bounds, _evidence(split, tally)) for tally in tallies)


def _evidence(split: Split, ours: Tally) -> Evidence:
    theirs = split.stable_opinions
    return Evidence(
        candidate=Arm(positive=ours.positive, negative=ours.negative),
        stable=Arm(positive=theirs.positive, negative=theirs.negative),
    )
