"""Versions: published, approved, revoked, and their files given up."""

from collections.abc import Iterable
from typing import Annotated

import msgspec
from annotated_types import MaxLen

from adapters.admission import Facts
from adapters.fields import Comment, Count, Digest, Name, Number, Reason
from adapters.lineage import Lineage
from adapters.names import AdapterRef, check_name
from adapters.spectra import Spectrum
from registry import errors
from registry.model.base import Command, Draft, Event, Route, made_of
from registry.model.catalog import Adapter, Catalog, File, Version, in_good_standing, person
from registry.model.collection import spare
from registry.model.comparisons import ended
from registry.model.differences import changed_files
from registry.model.evidence import Approval
from registry.model.index import of_version
from registry.model.standing import authors, roles_of


class VersionPublished(Event, frozen=True):
    """An admitted version: these files, unchangeable."""

    domain: str
    adapter: str
    version: int
    digest: str
    base: str
    files: tuple[File, ...]
    facts: Facts
    lineage: Lineage = Lineage()
    signer: str | None = None
    """SHA-256 of the public key (DER) whose signature was verified."""
    spectrum: Spectrum | None = None
    """Means over the modules' updates."""
    analysis: str | None = None
    """Digest of the blob with the spectrum of each module's update, as JSON."""
    flags: tuple[str, ...] = ()
    """What screening found unusual: for reviewers, no verdict."""
    message: str = ""
    """The publisher's message: a summary in the first line, then a description."""

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Add the version to its adapter, which begins with its first."""
        path = f"{self.domain}/{self.adapter}"
        adapter = draft.adapters.get(path, Adapter(domain=self.domain, name=self.adapter))
        if self.domain not in draft.domains or self.version != len(adapter.versions) + 1:
            raise LookupError(f"{path}@{self.version} is not the next version")
        version = made_of(Version, self, number=self.version, publisher=by, published=at)
        draft.adapters[path] = msgspec.structs.replace(
            adapter, versions=(*adapter.versions, version)
        )
        draft.learn(*of_version(version))


class VersionApproved(Event, frozen=True):
    """An expert approved exactly these bytes."""

    domain: str
    adapter: str
    version: int
    digest: str
    statement: str = ""
    """What the expert looked at, and why the version may be used."""

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Add the approval."""
        path = f"{self.domain}/{self.adapter}"
        version = draft.version(path, self.version)
        by_whom, when = (*version.approvers, by), (*version.approved, Approval(at, self.statement))
        draft.change_version(path, self.version, approvers=by_whom, approved=when)


class VersionRevoked(Event, frozen=True):
    """The version is served no more."""

    domain: str
    adapter: str
    version: int
    reason: str

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Mark it."""
        path = f"{self.domain}/{self.adapter}"
        draft.change_version(path, self.version, revoked=self.reason, revoker=by, revoked_at=at)
        _end_shadows(draft, path, self.version, "revoked", at)


class VersionTombstoned(Event, frozen=True):
    """The version's files are given up; its place and its history stay."""

    domain: str
    adapter: str
    version: int
    reason: str

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Mark it."""
        path = f"{self.domain}/{self.adapter}"
        draft.change_version(path, self.version, tombstone=self.reason)
        _end_shadows(draft, path, self.version, "deleted", at)


def _end_shadows(draft: Draft, path: str, version: int, what: str, at: str) -> None:
    """End the shadows that compare a version which is served no more."""
    before, reason = draft.adapters[path].shadows, f"version {version} was {what}"
    draft.change_adapter(path, shadows=ended(before, at, reason, version=version))


class PublishVersion(Command, frozen=True):
    """Make admitted bytes the adapter's next version. Its files are stored and verified already.

    Publishing again what is the newest version already changes nothing and succeeds: a publisher
    whose reply was lost just repeats its push.
    """

    event = VersionPublished
    role = "publish"
    domain: Name
    adapter: Name
    digest: Digest
    base: Name
    files: Annotated[tuple[File, ...], MaxLen(1000)]
    facts: Facts
    read_at: Count = 0
    """The commit after which the stored files were read back: a collection that ended later may
    have removed them since."""
    lineage: Lineage = Lineage()
    signer: Digest | None = None
    spectrum: Spectrum | None = None
    analysis: Digest | None = None
    flags: Annotated[tuple[Reason, ...], MaxLen(100)] = ()
    message: Comment = ""
    expected: Count | None = None
    """Only if this is the adapter's newest version now (0: it has none), given up or not."""

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """The adapter's next version, unless its newest has these very bytes."""
        catalog.domain(self.domain)
        check_name(self.adapter, "adapter")
        if self.base not in catalog.bases:
            raise errors.UnknownBase(
                f"Base model {self.base!r} is not registered. "
                f"An operator registers it: lorary base add DIR --name {self.base}"
            )
        path = f"{self.domain}/{self.adapter}"
        adapter = catalog.adapters.get(path)
        if adapter is None and (other := catalog.in_another_case(path)):
            raise errors.Conflict(f"{other} exists, and differs in case only. Publish to that one.")
        versions = adapter.versions if adapter else ()
        if versions and versions[-1].digest == self.digest and versions[-1].tombstone is None:
            return
        if self.expected is not None and self.expected != len(versions):
            raise self._overtaken(versions)
        named = {file.sha256 for file in self.files} | {self.analysis or ""}
        spare(catalog, named, self.read_at)
        yield self.caused(version=len(versions) + 1)

    def _overtaken(self, versions: tuple[Version, ...]) -> errors.VersionConflict:
        path = f"{self.domain}/{self.adapter}"
        if not versions:
            return errors.VersionConflict(
                f"{path} has no version yet. Expect 0, or expect nothing."
            )
        newest, seen = versions[-1], self.expected or 0
        known = versions[seen - 1] if 0 < seen < len(versions) else None
        changed = f" Changed since {known.ref}: {changed_files(known, newest)}." if known else ""
        return errors.VersionConflict(
            f"The newest version of {path} is {newest.number}, not {self.expected}: "
            f"{newest.publisher} published it at {newest.published}.{changed} "
            f"Look at it (lorary show {newest.ref}), then publish on top of it."
        )


class ApproveVersion(Command, frozen=True):
    """Approve, as an expert, exactly the bytes with `digest`."""

    event = VersionApproved
    role = "approve"
    route = Route("POST", "/adapters/{domain}/{adapter}/versions/{version}/approvals")
    domain: Name
    adapter: Name
    version: Number
    digest: Digest
    statement: Comment = ""

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """An expert's approval of these bytes; never the publisher's. Again, by another key of
        theirs, only if it has a role that the policy asks for and the keys before lack."""
        ref = AdapterRef(self.domain, self.adapter, version=self.version)
        version = catalog.resolve(ref)
        if version.digest != self.digest:
            raise errors.Conflict(
                f"{ref} has digest {version.digest[:12]}, not {self.digest[:12]}. "
                "Review the bytes that are published."
            )
        who = person(catalog.keys, by)
        if who in authors(catalog, version):
            raise errors.Forbidden(
                f"{by} published the weights of {ref} and cannot approve them. Ask a colleague."
            )
        approved = [
            key
            for key in version.approvers
            if in_good_standing(catalog.keys, key) and person(catalog.keys, key) == who
        ]
        asked = catalog.domain(self.domain).policy.approvers.keys()
        had = {role for key in approved for role in roles_of(catalog, key, self.domain)}
        if not approved or asked & roles_of(catalog, by, self.domain) - had:
            yield self.caused()


class RevokeVersion(Command, frozen=True):
    """Revoke a version and stop serving it."""

    event = VersionRevoked
    route = Route("POST", "/adapters/{domain}/{adapter}/versions/{version}/revocation")
    domain: Name
    adapter: Name
    version: Number
    reason: Reason

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Revoke it; again changes nothing."""
        ref = AdapterRef(self.domain, self.adapter, version=self.version)
        if not self.reason.strip():
            raise errors.BadRequest("Say why: every caller of the version will read the reason.")
        if catalog.find(ref).revoked is None:
            yield self.caused()


class TombstoneVersion(Command, frozen=True):
    """Give up a version's files for good; its history stays."""

    event = VersionTombstoned
    route = Route("POST", "/adapters/{domain}/{adapter}/versions/{version}/tombstone")
    domain: Name
    adapter: Name
    version: Number
    reason: Reason

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Give up the files of a version that no alias names."""
        ref = AdapterRef(self.domain, self.adapter, version=self.version)
        if not self.reason.strip():
            raise errors.BadRequest("Give a reason: whoever requests the version is shown it.")
        if catalog.find(ref).tombstone is not None:
            return
        adapter = catalog.adapter(AdapterRef(self.domain, self.adapter))
        named = [*adapter.aliases.items(), *((a, s.candidate) for a, s in adapter.splits.items())]
        naming = sorted(alias for alias, number in named if number == self.version)
        if naming:
            raise errors.Conflict(
                f"{ref} is named by {', '.join(naming)}. Move those aliases first."
            )
        yield self.caused()
