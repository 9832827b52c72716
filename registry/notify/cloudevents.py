"""Public events, made from a commit's entries as CloudEvents 1.0 in JSON. Pure.

The same commit makes the same events in every process and at any time: nothing but the commit is
read, so what is delivered again is the same to the byte. An event's `id` is `COMMIT-ENTRY`, the
place of its entry in the log. See
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from registry import errors
from registry.log.commits import Commit
from registry.model.aliases import AliasMoved
from registry.model.base import Event
from registry.model.canary import SplitRolledBack
from registry.model.evaluations import EvaluationRecorded
from registry.model.reviews import ReviewOpened
from registry.model.versions import VersionApproved, VersionPublished, VersionRevoked
from registry.model.webhooks import EventType

END = 1 << 30
"""A number after every entry of a commit."""
_CURSOR = re.compile(r"([0-9]{1,16})(?:-([0-9]{1,9}))?")


class Position(NamedTuple):
    """The place of an entry in the log."""

    sequence: int
    entry: int

    def __str__(self) -> str:
        return str(self.sequence) if self.entry == END else f"{self.sequence}-{self.entry}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Read an event's id, or a commit's number for the end of that commit.

        Raises `BadRequest`."""
        found = _CURSOR.fullmatch(text)
        if found is None:
            raise errors.BadRequest(
                f"Invalid cursor {text[:40]!r}. Use the number of a commit or the id of an event."
            )
        return cls(int(found[1]), END if found[2] is None else int(found[2]))


@dataclass(frozen=True, slots=True)
class PublicEvent:
    """One event as other systems see it."""

    position: Position
    type: EventType
    domain: str
    subject: str
    lane: str
    """Events of one lane are delivered in order: an adapter's, or those of a review."""
    body: bytes
    """The CloudEvent in JSON."""


class _Shown(NamedTuple):
    """What one log event becomes."""

    type: EventType
    subject: str
    lane: str
    data: dict[str, Any]


def _of_version(kind: EventType, *fields: str, by: str = "actor") -> Callable[[Any, str], _Shown]:
    """Shows an event of a version: its names, `fields` of it, and who caused it under `by`."""

    def show(event: Any, actor: str) -> _Shown:
        path = f"{event.domain}/{event.adapter}"
        names = {"domain": event.domain, "adapter": event.adapter, "version": event.version}
        data = names | {field: getattr(event, field) for field in fields} | {by: actor}
        return _Shown(kind, f"{path}@{event.version}", path, data)

    return show


def _evaluated(event: EvaluationRecorded, actor: str) -> _Shown:
    show = _of_version("ai.lorary.version.evaluated", "digest", "report", by="evaluator")
    shown = show(event, actor)
    return shown._replace(data=shown.data | {"suites": [r.suite for r in event.results]})


def _review(event: ReviewOpened, _: str) -> _Shown:
    """A review's versions and adapter stay hidden from its experts while it is open. So its lane is
    its own, too: in the adapter's lane, a delivery that waits would give the adapter away."""
    subject = f"reviews/{event.review}"
    data = {"domain": event.domain, "review": event.review, "title": event.title,
            "items": len(event.items)}  # fmt: skip
    return _Shown("ai.lorary.review.waiting", subject, subject, data)


def _moved(event: AliasMoved, actor: str) -> _Shown:
    """A move to an older version is a rollback."""
    back = event.previous is not None and event.version < event.previous
    data = {"domain": event.domain, "adapter": event.adapter, "alias": event.alias,
            "version": event.version, "previous": event.previous, "actor": actor}  # fmt: skip
    kind: EventType = "ai.lorary.alias.rolled_back" if back else "ai.lorary.alias.promoted"
    path = f"{event.domain}/{event.adapter}"
    return _Shown(kind, f"{path}@{event.alias}", path, data)


def _canary(event: SplitRolledBack, actor: str) -> _Shown:
    """The alias did not move; callers of the candidate get its version again."""
    data = {"domain": event.domain, "adapter": event.adapter, "alias": event.alias,
            "candidate": event.candidate, "bound": event.bound, "limit": event.limit,
            "actor": actor}  # fmt: skip
    path = f"{event.domain}/{event.adapter}"
    return _Shown("ai.lorary.alias.rolled_back", f"{path}@{event.alias}", path, data)


SHOWN: Mapping[type[Event], Callable[[Any, str], _Shown]] = {
    VersionPublished: _of_version("ai.lorary.version.published", "digest", "base", by="publisher"),
    EvaluationRecorded: _evaluated,
    VersionApproved: _of_version("ai.lorary.version.approved", "digest", by="approver"),
    VersionRevoked: _of_version("ai.lorary.version.revoked", "reason"),
    ReviewOpened: _review,
    AliasMoved: _moved,
    SplitRolledBack: _canary,
}
"""The log's events that are public, and what each shows. No other event leaves the registry."""


def public_events(commit: Commit, registry: str) -> tuple[PublicEvent, ...]:
    """The public events of a commit of `registry`, in order."""
    return tuple(
        _public(Position(commit.sequence, index), show(entry.event, entry.actor), commit, registry)
        for index, entry in enumerate(commit.entries)
        if (show := SHOWN.get(type(entry.event))) is not None
    )


def _public(position: Position, shown: _Shown, commit: Commit, registry: str) -> PublicEvent:
    body = {
        "specversion": "1.0",
        "id": str(position),
        "source": quote(registry),
        "type": shown.type,
        "subject": shown.subject,
        "time": commit.time,
        "datacontenttype": "application/json",
        "data": shown.data,
    }
    domain: str = shown.data["domain"]
    encoded = msgspec.json.encode(body)
    return PublicEvent(position, shown.type, domain, shown.subject, shown.lane, encoded)
