"""Whether a registry is whole: every link of the chain, every event, and every blob that is needed.

What cannot be noticed from the store alone: events that a real key could have caused, appended by
whoever can write the store; a log written anew from its beginning; newest commits removed. The last
two show against a witness (`registry.maintain.witness`) that is kept elsewhere.
"""

import hashlib
from collections.abc import Callable, Mapping

import msgspec

from registry.errors import BrokenChain, DigestMismatch, ObjectNotFound, StoreError
from registry.log import checkpoints
from registry.log.commits import CommitLog, Confirmation, Stored, follow
from registry.log.layout import LAYOUT
from registry.maintain.auditing import audit
from registry.model.catalog import Catalog
from registry.model.collection import blob_uses
from registry.store.base import ObjectStore
from registry.store.blobs import Blobs, content_digest
from registry.times import FIRST, instant

MOST = 100
"""Remarks that are listed."""


class Report(msgspec.Struct, frozen=True):
    """What was checked, and everything that was found wrong."""

    commits: int
    versions: int
    blobs: int
    bytes: int
    findings: tuple[str, ...]
    unread: tuple[str, ...] = ()
    """What the store would not give just now: neither sound nor damaged."""
    remarks: tuple[str, ...] = ()
    """Events that today's rules would refuse, though an earlier version may have written them."""
    head: str | None = None
    """SHA-256 of the last commit."""

    @property
    def sound(self) -> bool:
        """Whether everything was read and nothing was found."""
        return not self.findings and not self.unread


Progress = Callable[[str, int, int], None]
"""Called with what is being checked, how much is done, and how much there is (0: unknown)."""


class _Check(msgspec.Struct):
    """A verification under way."""

    store: ObjectStore
    progress: Progress
    witness: Mapping[int, str]
    findings: list[str] = []
    unread: list[str] = []
    remarks: list[str] = []
    confirmed: dict[int, str] = {}
    """SHA-256 of the checkpoints that the log confirms, by the commit they are of."""


def verify(
    store: ObjectStore,
    progress: Progress = lambda _what, _done, _total: None,
    witness: Mapping[int, str] | None = None,
) -> Report:
    """Read the whole log and every blob that something in it needs; decide every event again.

    witness: SHA-256 of commits, by number, as somebody saw them before.
    Raises `StoreUnavailable` if the log cannot be read; anything else that is wrong becomes a
    finding.
    """
    check = _Check(store, progress, witness or {})
    catalog = _check_chain(check)
    sizes = _check_blobs(check, catalog)
    _check_checkpoints(check, catalog)
    versions = [
        version
        for adapter in catalog.adapters.values()
        for version in adapter.versions
        if version.tombstone is None
    ]
    return Report(
        commits=catalog.sequence,
        versions=len(versions),
        blobs=len(sizes),
        bytes=sum(sizes.values()),
        findings=tuple(check.findings),
        unread=tuple(check.unread),
        remarks=tuple(check.remarks[:MOST]),
        head=catalog.head,
    )


def _check_chain(check: _Check) -> Catalog:
    catalog, ids = Catalog(), set[str]()
    catalog.index  # noqa: B018 - made while it is empty, so that it grows with the events
    try:
        for stored in CommitLog(check.store).after(0):
            if stored.commit.id in ids:
                text = f"commit {stored.commit.sequence} repeats an earlier commit's id"
                check.findings.append(text)
            ids.add(stored.commit.id)
            after = follow(catalog, stored)
            _check_commit(check, catalog, stored)
            catalog = after
            check.progress("commits", catalog.sequence, 0)
    except BrokenChain as broken:
        check.findings.append(broken.message)
    except (LookupError, TypeError, ValueError) as error:
        check.findings.append(f"commit {catalog.sequence + 1} contradicts the state: {error!r}")
    if catalog.passed_over:
        check.unread.append(
            f"{catalog.passed_over} event(s) that a newer Lorary wrote, and what they need. Verify "
            "with that one"
        )
    beyond = sum(1 for info in check.store.list("log/") if _number(info.key) > catalog.sequence)
    if catalog.sequence == 0 and not check.findings:
        check.findings.append("the store holds no registry")
    elif beyond and not check.findings:
        check.findings.append(
            f"commit {catalog.sequence + 1} is missing, but {beyond} commit(s) lie after it"
        )
    if check.witness and (seen := max(check.witness)) > catalog.sequence:
        check.findings.append(
            f"the witness saw commit {seen}, but the log ends at {catalog.sequence}: the newest "
            "commits were removed"
        )
    return catalog


def _check_commit(check: _Check, before: Catalog, stored: Stored) -> None:
    """What a commit says, beyond its place in the chain."""
    sequence, said, time = stored.commit.sequence, stored.commit.checkpoint, stored.commit.time
    if instant(time) < instant(before.time or FIRST):
        check.findings.append(
            f"commit {sequence} is dated {time}, before the commit that it follows ({before.time})"
        )
    if check.witness.get(sequence, stored.digest) != stored.digest:
        check.findings.append(
            f"commit {sequence} is not the one that the witness saw: the history was rewritten"
        )
    for doubt in audit(before, stored.commit):
        (check.findings if doubt.forged else check.remarks).append(doubt.text)
    if isinstance(said, Confirmation) and said.layout == LAYOUT:
        truth = checkpoints.make(before).confirmation.sha256
        check.confirmed[before.sequence] = truth
        if said.sha256 != truth:
            check.findings.append(
                f"commit {sequence} confirms a checkpoint of commit {before.sequence} that does "
                "not say what the log says"
            )


def _number(key: str) -> int:
    name = key.removeprefix("log/").removesuffix(".json")
    return int(name) if name.isascii() and name.isdigit() else 0


def _check_blobs(check: _Check, catalog: Catalog) -> dict[str, int]:
    """Re-hash each needed blob once; digests and sizes of those that are sound."""
    for adapter in catalog.adapters.values():
        for version in adapter.versions:
            if content_digest(version.files) != version.digest:
                text = f"{version.ref}: its digest is not that of its list of files"
                check.findings.append(text)
    for task in catalog.tasks.values():
        for asked in task.versions:
            if content_digest(asked.files) != asked.digest:
                text = f"task {asked.ref}: its digest is not that of its list of files"
                check.findings.append(text)
    needed = {use.digest: use for use in blob_uses(catalog)}
    blobs, sizes = Blobs(check.store), dict[str, int]()
    for done, (digest, use) in enumerate(needed.items(), start=1):
        try:
            sizes[digest] = sum(len(piece) for piece in blobs.stream(digest, use.size))
        except (ObjectNotFound, ValueError):  # nothing lies under what is no digest
            check.findings.append(f"{use.by}: blob {digest[:12]} is missing")
        except DigestMismatch as error:
            check.findings.append(f"{use.by}: {error.message}")
        except StoreError as error:
            check.unread.append(f"{use.by}: blob {digest[:12]}: {error.message}")
        check.progress("blobs", done, len(needed))
    return sizes


def _check_checkpoints(check: _Check, catalog: Catalog) -> None:
    """Those that the log confirms, against what it says. Others are not used by anybody."""
    for sequence, truth in check.confirmed.items():
        try:
            data = check.store.get(checkpoints.checkpoint_key(sequence))
        except ObjectNotFound:
            continue
        except StoreError as error:
            check.unread.append(f"checkpoint {sequence}: {error.message}")
            continue
        if hashlib.sha256(data).hexdigest() != truth:
            check.findings.append(
                f"checkpoint {sequence} was changed: it is not used. Delete "
                f"{checkpoints.checkpoint_key(sequence)}"
            )
    if not check.findings and not check.unread and checkpoints.load(check.store) != catalog:
        check.findings.append("a start from the checkpoints does not give what the log says")
