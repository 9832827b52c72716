"""What the API shows of the catalog, as plain JSON: never a secret or its digest."""

from collections.abc import Mapping
from typing import Any

import msgspec

from registry.log.commits import Stored
from registry.model import comparisons
from registry.model.access import ANY_DOMAIN, may_audit
from registry.model.base import Event
from registry.model.canary import SplitRolledBack
from registry.model.catalog import Adapter, Catalog, Domain, Key, Version
from registry.model.keys import AccessRecovered, KeyIssued
from registry.model.ratings import Feedback
from registry.model.recorded import Calibrated
from registry.model.reviews import ItemJudged, JudgementWithdrawn, ReviewOpened
from registry.model.task_versions import Task, TaskVersion
from registry.model.trials import Rollback, Split, in_words

UNBLINDING = frozenset(
    (
        "adapter",
        "versions",
        "content",
        "item",
        "verdicts",
        "severity",
        "preferred",
        "notes",
        "met",
    )
)
"""Fields of a review's events that tell whose answers it shows, or what experts judged."""
SHOWN = 1000
"""Versions, and moves, that an adapter is shown with, the newest."""
LISTED = 10
"""The same where many adapters are listed."""
EVALUATIONS = 20
"""How many of a version's evaluations are shown, the newest."""


def version_view(
    version: Version, counting: Calibrated | None, keys: Mapping[str, Key]
) -> dict[str, Any]:
    """A version and its files, whose parts are the catalog's own: msgspec encodes them.

    counting: its newest calibration that counts (`registry.model.standing.calibrated`). keys: name
    its evaluators.
    """
    evaluations = version.evaluations[-EVALUATIONS:]
    return {
        "ref": str(version.ref),
        "domain": version.domain,
        "adapter": version.adapter,
        "version": version.number,
        "digest": version.digest,
        "base": version.base,
        "bytes": version.size,
        "files": version.files,
        "facts": version.facts,
        "publisher": version.publisher,
        "published": version.published,
        "message": version.message,
        "approvers": version.approvers,
        "approved": version.approved,
        "revoked": version.revoked,
        "revoked_at": version.revoked_at,
        "tombstone": version.tombstone,
        "lineage": version.lineage,
        "signer": version.signer,
        "spectrum": version.spectrum,
        "flags": version.flags,
        "evaluations": evaluations,
        "evaluators": {one.evaluator: keys[one.evaluator].name for one in evaluations},
        "calibration": counting and counting.calibration,
        "feedback": feedback_view(version.feedback),
    }


def plain(view: dict[str, Any]) -> dict[str, Any]:
    """The same of lists, dictionaries, text and numbers alone, for FastAPI to encode."""
    found: dict[str, Any] = msgspec.to_builtins(view)
    return found


def _split(split: Split) -> dict[str, Any]:
    """A split, without who gave feedback."""
    shown: dict[str, Any] = msgspec.to_builtins(split)
    del shown["askers"]
    return shown


def adapter_view(adapter: Adapter, domain: Domain, newest: int = SHOWN) -> dict[str, Any]:
    """An adapter, its `newest` versions in short, and its aliases with how they moved last."""
    return {
        "path": f"{adapter.domain}/{adapter.name}",
        "default": domain.default == adapter.name,
        "aliases": adapter.aliases,
        "outages": adapter.outages,
        "splits": {alias: _split(split) for alias, split in adapter.splits.items()},
        "versions": [
            {
                "version": version.number,
                "digest": version.digest,
                "published": version.published,
                "publisher": version.publisher,
                "message": version.message,
                "revoked": version.revoked,
                "tombstone": version.tombstone,
                "flags": list(version.flags),
                "feedback": _counts(version.feedback),
            }
            for version in adapter.versions[-newest:]
        ],
        "version_count": len(adapter.versions),
        "moves": msgspec.to_builtins(adapter.moves[-newest:]),
        "canaries": msgspec.to_builtins(adapter.canaries[-newest:]),
        "rollbacks": [rollback_view(rollback) for rollback in adapter.rollbacks[-newest:]],
        "shadows": [comparisons.view(shadow) for shadow in adapter.shadows[-newest:]],
    }


def rollback_view(rollback: Rollback) -> dict[str, Any]:
    """How a split ended, with what was seen in words, too."""
    view: dict[str, Any] = msgspec.to_builtins(rollback)
    return {**view, "seen": in_words(rollback.bound, rollback.limit, rollback.evidence)}


def feedback_view(feedback: Feedback) -> dict[str, Any]:
    """How much feedback of which kind, and the answers that were judged negative last."""
    return {**_counts(feedback), "complaints": feedback.complaints}


def _counts(feedback: Feedback) -> dict[str, Any]:
    tally = feedback.tally
    return {
        "positive": tally.positive,
        "negative": tally.negative,
        "categories": feedback.categories,
    }


def domain_view(domain: Domain) -> dict[str, Any]:
    """A domain, its policy and its default adapter."""
    view: dict[str, Any] = msgspec.to_builtins(domain)
    return view


def task_view(task: Task, newest: int = SHOWN) -> dict[str, Any]:
    """A task and its `newest` versions, without their files."""
    versions = [task_version_view(version) for version in task.versions[-newest:]]
    for version in versions:
        del version["files"]
    return {
        "path": f"{task.domain}/{task.name}",
        "name": task.name,
        "versions": versions,
        "version_count": len(task.versions),
    }


def task_version_view(version: TaskVersion, *, digests: bool = False) -> dict[str, Any]:
    """A version of a task; its files with their digests only if `digests`."""
    view: dict[str, Any] = msgspec.to_builtins(version)
    if not digests:
        for file in view["files"]:
            del file["sha256"]
    return {
        "ref": str(version.ref),
        "about": version.about,
        "licence": version.licence,
        "message": version.message,
        "retired": version.retired,
        "items": version.items,
        "bytes": version.size,
        **{("version" if name == "number" else name): value for name, value in view.items()},
    }


def key_view(key: Key) -> dict[str, Any]:
    """A key without the digest of its secret."""
    view: dict[str, Any] = msgspec.to_builtins(key)
    del view["secret_sha256"]
    return view


def commit_view(stored: Stored, catalog: Catalog, reader: Key) -> dict[str, Any]:
    """A commit with its digest, without digests of secrets, without entries about domains that
    `reader` may not audit, and without what would unblind the experts of an open review.

    Nor is its random id shown: with the digest, it would let anybody check guesses at what is not.
    """
    commit = stored.commit
    readable = tuple(e for e in commit.entries if may_audit(reader, _domain_of(e.event, catalog)))
    commit = msgspec.structs.replace(commit, entries=readable)
    view: dict[str, Any] = msgspec.to_builtins(commit)
    del view["id"]
    for entry, shown in zip(commit.entries, view["entries"], strict=True):
        if isinstance(entry.event, KeyIssued | AccessRecovered):
            del shown["event"]["secret_sha256"]
        elif isinstance(entry.event, ReviewOpened | ItemJudged | JudgementWithdrawn):
            review = catalog.reviews.get(entry.event.review)
            if review is not None and review.closed is None:
                for name in UNBLINDING & shown["event"].keys():
                    shown["event"][name] = "hidden until the review is closed"
        elif isinstance(entry.event, SplitRolledBack):
            event = entry.event
            shown["event"]["seen"] = in_words(event.bound, event.limit, event.evidence)
    return {**view, "digest": stored.digest}


def _domain_of(event: Event, catalog: Catalog) -> str:
    """The domain that an event concerns; `*` for the whole registry."""
    review = catalog.reviews.get(getattr(event, "review", ""))
    domain: str = getattr(event, "domain", review.domain if review else ANY_DOMAIN)
    return domain
