"""Whether the events of a log are ones that the registry would have written. Pure.

Each event is turned back into the command that causes it, and the command is decided again in the
state before it, by the key that the log names and at the time that the log names.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from adapters.errors import LoraryError
from adapters.names import AdapterRef
from registry.errors import Forbidden, PromotionNotEarned, Unauthenticated
from registry.log.commits import Commit
from registry.model.access import ANY_DOMAIN, BOOTSTRAP
from registry.model.aliases import MoveAlias
from registry.model.base import Command, Entry, Event
from registry.model.canary import SplitAlias
from registry.model.catalog import Catalog, Grant
from registry.model.creation import CreateRegistry, RegistryCreated
from registry.model.gates import settled
from registry.model.intervals import lower_bound
from registry.model.keys import KeyIssued
from registry.model.machine import commands, decide, fold
from registry.model.reviewing import Review, settled_jointly

FORGED = (Unauthenticated, Forbidden, PromotionNotEarned)
"""Refusals that no version of Lorary would have let through. Other rules have become stricter."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """An event that this Lorary would not have written."""

    text: str
    forged: bool
    """Whether no version would have: an unknown, revoked or expired key, a missing role, a
    publisher who approves itself, a guarded alias that names what has not earned it."""


def audit(before: Catalog, commit: Commit) -> list[Doubt]:
    """What is doubtful about a commit that follows `before`.

    Raises `LookupError` or `TypeError` for an event that contradicts the state before it.
    """
    doubts: list[Doubt] = []
    state, entailed = before, list[Event]()
    for entry in commit.entries:
        if entailed and entry.event == entailed[0]:
            entailed.pop(0)
        elif not _begins(state, entry, commit.entries):
            doubt, entailed = _decided_again(state, entry, commit.time)
            if doubt is not None:
                kind = type(entry.event).__name__
                text = f"commit {commit.sequence}: {kind} by {entry.actor}: {doubt.text}"
                doubts.append(Doubt(text, doubt.forged))
        state = fold(state, [entry], commit.time)
    return doubts


def _begins(state: Catalog, entry: Entry, entries: Sequence[Entry]) -> bool:
    """Whether an entry belongs to a log's beginning: its name, and the first operator's key."""
    return (
        state.sequence == 0
        and entry.actor == BOOTSTRAP
        and [type(first.event) for first in entries] == [RegistryCreated, KeyIssued]
    )


def _decided_again(state: Catalog, entry: Entry, time: str) -> tuple[Doubt | None, list[Event]]:
    """What is doubtful about an entry, and the events that must follow it."""
    kind = next((c for c in commands().values() if c.event is type(entry.event)), None)
    if kind is None or kind is CreateRegistry:
        return Doubt("only the first commit may begin a registry", forged=True), []
    command = _command(kind, entry.event, state)
    try:
        decided = decide(state, command, entry.actor, time)
    except PromotionNotEarned as refusal:
        return Doubt(refusal.message, not _earned_once(state, command, entry.actor, time)), []
    except LoraryError as refusal:
        return Doubt(refusal.message, isinstance(refusal, FORGED)), []
    if not decided:
        return Doubt("it changes nothing", forged=False), []
    if decided[0] != entry.event:
        return Doubt("today's rules decide otherwise", forged=False), []
    return None, list(decided[1:])


def _earned_once(state: Catalog, command: Command, actor: str, time: str) -> bool:
    """Whether an earlier Lorary, which settled the answers of an item jointly, counted each answer
    of a review, whoever opened it, what experts of any domain settled and what authors of the
    weights judged before they published them, had a bound for one look reach `reviewed_correct`,
    and took a return to any version that an alias had named for a rollback, allowed it."""
    reviews = {each.id: each for review in state.reviews.values() for each in _counted_then(review)}
    adapters = {
        path: msgspec.structs.replace(
            adapter,
            moves=tuple(msgspec.structs.replace(move, earned=True) for move in adapter.moves),
        )
        for path, adapter in state.adapters.items()
    }
    everywhere = (Grant("review", ANY_DOMAIN),)
    judges = {
        _as_judge(name): msgspec.structs.replace(key, person=_as_judge(name), grants=everywhere)
        for name, key in state.keys.items()
    }
    keys = {**state.keys, **judges}
    domains = {
        name: msgspec.structs.replace(
            domain, policy=msgspec.structs.replace(domain.policy, reviewed_correct=0.0)
        )
        for name, domain in state.domains.items()
    }
    before = msgspec.structs.replace(state, reviews=reviews, adapters=adapters, keys=keys)
    if _is_allowed(before, command, actor, time):
        return True
    before = msgspec.structs.replace(before, domains=domains)
    return _is_allowed(before, command, actor, time) and _reached_once(state, before, command)


def _is_allowed(state: Catalog, command: Command, actor: str, time: str) -> bool:
    try:
        decide(state, command, actor, time)
    except LoraryError:
        return False
    return True


def _reached_once(state: Catalog, before: Catalog, command: Command) -> bool:
    """Whether the bound for one look at what `before` counts reaches the policy's share."""
    if not isinstance(command, MoveAlias | SplitAlias):
        return False
    number = command.version if isinstance(command, MoveAlias) else command.candidate
    version = before.find(AdapterRef(command.domain, command.adapter, number))
    found, policy = settled(version, before), state.domain(command.domain).policy
    bound = lower_bound(sum(found.values()), len(found), policy.alpha)
    return bound >= policy.reviewed_correct


def _counted_then(review: Review) -> Iterator[Review]:
    """A review as earlier versions of Lorary counted it: one for the answers of each version, by
    experts who are nobody else."""
    for place, number in enumerate(review.versions):
        name = f"{review.id}/{place}"
        judgements = tuple(
            msgspec.structs.replace(
                judgement,
                item=f"{name}/{judgement.item}",
                expert=_as_judge(judgement.expert),
                verdicts=(judgement.verdicts[place],),
            )
            for judgement in settled_jointly(review).judgements
        )
        decisions = tuple(
            msgspec.structs.replace(decision, item=f"{name}/{decision.item}")
            for decision in review.decisions
        )
        yield msgspec.structs.replace(
            review,
            id=name,
            versions=(number,),
            items=tuple(f"{name}/{item}" for item in review.items),
            judgements=judgements,
            decisions=decisions,
            opener=_as_judge(review.opener),
        )


def _as_judge(key: str) -> str:
    return f"{key} as a judge"


def _command(kind: type[Command], event: Event, state: Catalog) -> Command:
    """The command that causes `event`. Blobs count as read back just now, and what the event says
    of a policy that became weaker was confirmed."""
    names = kind.__struct_fields__
    fields = {name: getattr(event, name) for name in names if hasattr(event, name)}
    if "read_at" in names:
        fields["read_at"] = state.sequence
    if "weaken" in names:
        fields["weaken"] = bool(getattr(event, "weakened", ()))
    return kind(**fields)
