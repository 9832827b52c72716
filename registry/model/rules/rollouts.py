"""How a split may end by itself, and what callers' opinions do."""

import math

from adapters.names import AdapterRef, check_alias
from registry import errors
from registry.model.catalog import Adapter, Catalog, Split, person
from registry.model.commands import GiveFeedback, RollBackSplit
from registry.model.events import AnyEvent, FeedbackGiven, SplitRolledBack
from registry.model.fold import hear
from registry.model.opinions import CATEGORIES, RATINGS, Tally
from registry.model.trials import BOUND_NAMES, Arm, BoundName, Bounds, Evidence, crosses

MAX_RESPONSE = 400
"""Letters of an answer's id."""
MAX_COMMENT = 2000
MAX_RATIO = 1000.0
MAX_COUNT = 1 << 53
"""No count or time in evidence is higher; above it, JSON's readers disagree about numbers."""


def check_bounds(bounds: Bounds) -> None:
    """Raises `BadRequest` for bounds that mean nothing."""
    for share in (bounds.max_error_rate, bounds.max_negative_share):
        if share is not None and not 0 < share <= 1:
            raise errors.BadRequest(
                "A share's bound is above 0 and at most 1: 0.05 for 5 percent, 1 for no bound."
            )
    ratio = bounds.max_latency_ratio
    if ratio is not None and not 1 <= ratio <= MAX_RATIO:
        raise errors.BadRequest(f"A latency ratio's bound is 1 to {MAX_RATIO:g}: 2 for twice.")
    if not 1 <= bounds.min_requests <= MAX_COUNT:
        raise errors.BadRequest("The least number of requests is 1 or more.")
    if not 1 <= bounds.min_askers <= MAX_COUNT:
        raise errors.BadRequest("The least number of askers is 1 or more.")


def roll_back(catalog: Catalog, command: RollBackSplit) -> tuple[AnyEvent, ...]:
    """End a split, if it is the one that the evidence is about and the evidence is enough."""
    adapter = catalog.adapter(AdapterRef(command.domain, command.adapter))
    if any((r.alias, r.split) == (command.alias, command.split) for r in adapter.rollbacks):
        return ()
    split = adapter.splits.get(command.alias)
    if split is None or (split.number, split.candidate) != (command.split, command.candidate):
        raise errors.Conflict(
            f"Split {command.split} of {adapter.domain}/{adapter.name}@{command.alias} with "
            f"candidate {command.candidate} does not run. What was seen of it ends nothing."
        )
    _check_evidence(command.evidence)
    if command.bound not in BOUND_NAMES or command.bound == "negative_share":
        raise errors.BadRequest("Opinions are counted here. Report error_rate or latency_ratio.")
    if split.bounds is None or not crosses(command.bound, split.bounds, command.evidence):
        raise errors.Conflict(
            f"The evidence does not show that candidate {command.candidate} crosses a declared "
            f"bound on {command.bound}. The split goes on."
        )
    return (_rolled_back(adapter, command.alias, split, command.bound, command.evidence),)


def give_feedback(catalog: Catalog, command: GiveFeedback, now: str) -> tuple[AnyEvent, ...]:
    """Count an opinion once, and end every split whose candidate it brings across its bound."""
    ref = AdapterRef(command.domain, command.adapter, version=command.version)
    version = catalog.find(ref)
    _check_feedback(command)
    feedback = version.feedback
    if feedback.too_late(command.response, command.answered):
        raise errors.FeedbackTooLate(
            "That answer is older than all whose opinions are remembered. Judge later answers."
        )
    before = feedback.of(command.response, command.answered)
    if before and (before.rating, before.category) == (command.rating, command.category):
        return ()
    given = FeedbackGiven(
        domain=command.domain,
        adapter=command.adapter,
        version=command.version,
        response=command.response,
        answered=command.answered,
        asker=command.asker,
        rating=command.rating,
        category=command.category,
        comment=command.comment,
        alias=command.alias,
        split=command.split,
    )
    adapter = catalog.adapters[f"{command.domain}/{command.adapter}"]
    after = hear(adapter, given, now, person(catalog.keys, command.asker))
    return (given, *_sunk(after))


def _sunk(adapter: Adapter) -> list[AnyEvent]:
    """The ends of splits whose candidates have too many negative opinions."""
    ended: list[AnyEvent] = []
    for alias, split in adapter.splits.items():
        if split.bounds is not None and _is_sunk(split, split.bounds):
            evidence = _evidence(split, split.opinions)
            ended.append(_rolled_back(adapter, alias, split, "negative_share", evidence))
    return ended


def _is_sunk(split: Split, bounds: Bounds) -> bool:
    """Whether enough askers gave the candidate too many negative opinions, and no one of them
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


def _rolled_back(
    adapter: Adapter, alias: str, split: Split, bound: BoundName, evidence: Evidence
) -> SplitRolledBack:
    limit = split.bounds.limit(bound) if split.bounds else None
    assert limit is not None, "a bound that is not declared cannot be crossed"  # noqa: S101
    return SplitRolledBack(
        domain=adapter.domain,
        adapter=adapter.name,
        alias=alias,
        candidate=split.candidate,
        split=split.number,
        bound=bound,
        limit=limit,
        evidence=evidence,
    )


def _check_evidence(evidence: Evidence) -> None:
    """Raises `BadRequest` for counts that cannot be."""
    pairs = [(evidence.slower, evidence.compared)]
    for arm in (evidence.candidate, evidence.stable):
        pairs += [(arm.errors, arm.requests), (arm.positive, MAX_COUNT), (arm.negative, MAX_COUNT)]
        seconds = arm.first_token_p95
        if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
            raise errors.BadRequest("A time in the evidence is no number of seconds.")
    if not all(0 <= part <= whole <= MAX_COUNT for part, whole in pairs):
        raise errors.BadRequest("A count in the evidence is above the whole it is a part of.")


def _check_feedback(command: GiveFeedback) -> None:
    if command.rating not in RATINGS:
        raise errors.BadRequest(f"`rating` is one of {', '.join(RATINGS)}.")
    if command.category is not None and command.category not in CATEGORIES:
        raise errors.BadRequest(f"`category` is one of {', '.join(CATEGORIES)}.")
    if not 0 < len(command.response) <= MAX_RESPONSE:
        raise errors.BadRequest("`id` is not the id of an answer.")
    if command.comment is not None and len(command.comment) > MAX_COMMENT:
        raise errors.BadRequest(f"A comment has at most {MAX_COMMENT} letters. Send fewer.")
    if command.alias is not None:
        check_alias(command.alias)
    if not 0 <= command.split <= MAX_COUNT:
        raise errors.BadRequest("The number of the split is none.")
    if not 0 <= command.answered <= MAX_COUNT:
        raise errors.BadRequest("The time of the answer is none.")
