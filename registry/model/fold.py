"""What events make of a state. Pure: no clock, no store, no socket."""

from collections.abc import Iterable
from typing import assert_never

import msgspec

from registry.log.layout import LAYOUT
from registry.model import review_fold
from registry.model.catalog import (
    Adapter,
    Base,
    Calibrated,
    Catalog,
    Domain,
    Evaluation,
    Key,
    Move,
    Rollback,
    Split,
    Version,
    person,
)
from registry.model.events import (
    AliasMoved,
    AliasSplit,
    AnyEvent,
    BaseModelRegistered,
    BlobsCondemned,
    BlobsSwept,
    Commit,
    Confirmation,
    DefaultAdapterSet,
    DomainCreated,
    Entry,
    EvaluationRecorded,
    FeedbackGiven,
    ItemJudged,
    KeyIssued,
    KeyRevoked,
    Policy,
    PolicyChanged,
    RegistryCreated,
    ReviewClosed,
    ReviewErased,
    ReviewOpened,
    SplitRolledBack,
    VersionApproved,
    VersionPublished,
    VersionRevoked,
    VersionTombstoned,
)
from registry.model.gates import asks_anything
from registry.model.opinions import Tally
from registry.model.reviewing import Review
from registry.times import instant


def fold_commit(catalog: Catalog, commit: Commit, digest: str) -> Catalog:
    """The state after `commit`, whose bytes have SHA-256 `digest`.

    The caller has checked that the commit follows `catalog` (sequence and hash chain).
    """
    after = fold(catalog, commit.entries, commit.time)
    said = commit.checkpoint
    confirms = isinstance(said, Confirmation) and said.layout == LAYOUT
    return msgspec.structs.replace(
        after,
        sequence=commit.sequence,
        head=digest,
        time=commit.time,
        confirmed=commit.sequence - 1 if confirms else catalog.confirmed,
    )


def fold(catalog: Catalog, entries: Iterable[Entry], time: str) -> Catalog:
    """The state after `entries`, all of one commit made at `time`. `catalog` is left as it was."""
    tables = _Tables(
        registry=catalog.registry,
        bases=dict(catalog.bases),
        domains=dict(catalog.domains),
        adapters=dict(catalog.adapters),
        keys=dict(catalog.keys),
        reviews=dict(catalog.reviews),
        condemned=catalog.condemned,
        swept=catalog.swept,
        sequence=catalog.sequence + 1,
    )
    for entry in entries:
        tables.apply(entry.event, entry.actor, time)
    return msgspec.structs.replace(
        catalog,
        registry=tables.registry,
        bases=tables.bases,
        domains=tables.domains,
        adapters=tables.adapters,
        keys=tables.keys,
        reviews=tables.reviews,
        condemned=tables.condemned,
        swept=tables.swept,
    )


class _Tables(msgspec.Struct, kw_only=True):
    """Private copies of a catalog's tables while a commit is folded in."""

    registry: str
    bases: dict[str, Base]
    domains: dict[str, Domain]
    adapters: dict[str, Adapter]
    keys: dict[str, Key]
    reviews: dict[str, Review]
    condemned: tuple[str, ...]
    swept: int
    sequence: int
    """Of the commit that is folded in."""

    def apply(self, event: AnyEvent, actor: str, time: str) -> None:
        match event:
            case RegistryCreated():
                self.registry = event.registry
            case BaseModelRegistered():
                self.bases[event.name] = Base(
                    event.name, event.digest, event.shapes, event.known_as
                )
            case DomainCreated():
                self.domains[event.domain] = Domain(event.domain, event.policy)
            case PolicyChanged():
                self._change_domain(event.domain, policy=event.policy)
            case DefaultAdapterSet():
                self._change_domain(event.domain, default=event.adapter)
            case VersionPublished():
                self._publish(event, actor, time)
            case AliasMoved():
                self._move(event, actor, time)
            case AliasSplit():
                self._split(event, time)
            case SplitRolledBack():
                self._roll_back(event, actor, time)
            case FeedbackGiven():
                path = f"{event.domain}/{event.adapter}"
                asker = person(self.keys, event.asker)
                self.adapters[path] = hear(self.adapters[path], event, time, asker)
            case VersionApproved():
                self._change_version(event, approver=actor)
            case EvaluationRecorded():
                self._record(event, actor, time)
            case ReviewOpened():
                self.reviews[event.review] = review_fold.opened(event, actor, time)
            case ItemJudged() | ReviewClosed() | ReviewErased():
                before = self.reviews[event.review]
                self.reviews[event.review] = review_fold.after(before, event, actor, time)
            case VersionRevoked():
                self._change_version(event, revoked=event.reason)
            case VersionTombstoned():
                self._change_version(event, tombstone=event.reason)
            case BlobsCondemned():
                self.condemned = event.digests
            case BlobsSwept():
                self.condemned = ()
                self.swept = self.sequence
            case KeyIssued():
                self.keys[event.key] = Key(
                    id=event.key,
                    name=event.name,
                    secret_sha256=event.secret_sha256,
                    grants=event.grants,
                    issued=time,
                    expires=event.expires,
                )
            case KeyRevoked():
                key = self.keys[event.key]
                self.keys[event.key] = msgspec.structs.replace(key, revoked=event.reason)
            case _ as unreachable:
                assert_never(unreachable)

    def _change_domain(self, name: str, **changes: Policy | str) -> None:
        self.domains[name] = msgspec.structs.replace(self.domains[name], **changes)

    def _publish(self, event: VersionPublished, actor: str, time: str) -> None:
        path = f"{event.domain}/{event.adapter}"
        adapter = self.adapters.get(path, Adapter(domain=event.domain, name=event.adapter))
        version = Version(
            domain=event.domain,
            adapter=event.adapter,
            number=event.version,
            digest=event.digest,
            base=event.base,
            files=event.files,
            facts=event.facts,
            publisher=actor,
            published=time,
            lineage=event.lineage,
            signer=event.signer,
            spectrum=event.spectrum,
            analysis=event.analysis,
            flags=event.flags,
        )
        self.adapters[path] = msgspec.structs.replace(
            adapter, versions=(*adapter.versions, version)
        )

    def _move(self, event: AliasMoved, actor: str, time: str) -> None:
        path = f"{event.domain}/{event.adapter}"
        adapter = self.adapters[path]
        policy = self.domains[event.domain].policy
        earned = event.alias in policy.guarded and asks_anything(policy)
        move = Move(event.alias, event.version, event.previous, actor, time, earned)
        self.adapters[path] = msgspec.structs.replace(
            adapter,
            aliases={**adapter.aliases, event.alias: event.version},
            splits={name: split for name, split in adapter.splits.items() if name != event.alias},
            moves=(*adapter.moves, move),
        )

    def _split(self, event: AliasSplit, time: str) -> None:
        path = f"{event.domain}/{event.adapter}"
        adapter = self.adapters[path]
        splits, begun = dict(adapter.splits), adapter.splits_begun
        if event.percent:
            begun += 1
            since = int(instant(time).timestamp())
            splits[event.alias] = Split(event.candidate, event.percent, event.bounds, begun, since)
        else:
            splits.pop(event.alias, None)
        self.adapters[path] = msgspec.structs.replace(adapter, splits=splits, splits_begun=begun)

    def _roll_back(self, event: SplitRolledBack, actor: str, time: str) -> None:
        path = f"{event.domain}/{event.adapter}"
        adapter = self.adapters[path]
        rollback = Rollback(
            alias=event.alias,
            candidate=event.candidate,
            split=event.split,
            bound=event.bound,
            limit=event.limit,
            evidence=event.evidence,
            actor=actor,
            time=time,
        )
        self.adapters[path] = msgspec.structs.replace(
            adapter,
            splits={name: split for name, split in adapter.splits.items() if name != event.alias},
            rollbacks=(*adapter.rollbacks, rollback),
        )

    def _record(self, event: EvaluationRecorded, actor: str, time: str) -> None:
        domain = self.domains[event.domain]
        seen = {result.held_out for result in event.results}
        looks = {**domain.looks, **{items: domain.looks.get(items, 0) + 1 for items in seen}}
        self.domains[event.domain] = msgspec.structs.replace(domain, looks=looks)
        path = f"{event.domain}/{event.adapter}"
        versions = list(self.adapters[path].versions)
        old = versions[event.version - 1]
        evaluation = Evaluation(
            evaluator=actor,
            time=time,
            report=event.report,
            results=event.results,
            looks=tuple(looks[result.held_out] for result in event.results),
            engine=event.engine,
            answered=event.answered,
        )
        calibrations = old.calibrations
        if event.calibration is not None:
            fitted = msgspec.structs.replace(event.calibration, report=event.report)
            new = Calibrated(evaluator=actor, calibration=fitted, engine=event.engine)
            calibrations = (*(c for c in calibrations if c.evaluator != actor), new)
        versions[event.version - 1] = msgspec.structs.replace(
            old, evaluations=(*old.evaluations, evaluation), calibrations=calibrations
        )
        self.adapters[path] = msgspec.structs.replace(self.adapters[path], versions=tuple(versions))

    def _change_version(
        self,
        event: VersionApproved | VersionRevoked | VersionTombstoned,
        *,
        approver: str | None = None,
        revoked: str | None = None,
        tombstone: str | None = None,
    ) -> None:
        path = f"{event.domain}/{event.adapter}"
        adapter = self.adapters[path]
        old = adapter.versions[event.version - 1]
        approvers = old.approvers if approver is None else (*old.approvers, approver)
        new = msgspec.structs.replace(
            old,
            approvers=approvers,
            revoked=revoked if revoked is not None else old.revoked,
            tombstone=tombstone if tombstone is not None else old.tombstone,
        )
        versions = list(adapter.versions)
        versions[event.version - 1] = new
        self.adapters[path] = msgspec.structs.replace(adapter, versions=tuple(versions))


def hear(adapter: Adapter, event: FeedbackGiven, time: str, asker: str) -> Adapter:
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
