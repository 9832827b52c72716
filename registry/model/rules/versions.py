"""What may become of a version's bytes: published, approved, revoked, given up, collected."""

from adapters.names import AdapterRef, check_name
from registry import errors
from registry.model.catalog import Catalog, Version, blobs_in_use, in_good_standing, person
from registry.model.commands import (
    ApproveVersion,
    CondemnBlobs,
    PublishVersion,
    RevokeVersion,
    TombstoneVersion,
)
from registry.model.events import (
    AnyEvent,
    BlobsCondemned,
    VersionApproved,
    VersionPublished,
    VersionRevoked,
    VersionTombstoned,
)
from registry.model.standing import authors


def publish(catalog: Catalog, command: PublishVersion) -> tuple[AnyEvent, ...]:
    """The adapter's next version, unless its newest has these very bytes."""
    catalog.domain(command.domain)
    check_name(command.adapter, "adapter")
    if command.base not in catalog.bases:
        raise errors.UnknownBase(
            f"Base model {command.base!r} is not registered. "
            f"An operator registers it: lorary base add DIR --name {command.base}"
        )
    adapter = catalog.adapters.get(f"{command.domain}/{command.adapter}")
    versions = adapter.versions if adapter else ()
    if versions and versions[-1].digest == command.digest and versions[-1].tombstone is None:
        return ()
    if command.expected is not None and command.expected != len(versions):
        raise _overtaken(command, versions)
    named = {file.sha256 for file in command.files} | {command.analysis or ""}
    spare(catalog, named, command.read_at)
    return (
        VersionPublished(
            domain=command.domain,
            adapter=command.adapter,
            version=len(versions) + 1,
            digest=command.digest,
            base=command.base,
            files=command.files,
            facts=command.facts,
            lineage=command.lineage,
            signer=command.signer,
            spectrum=command.spectrum,
            analysis=command.analysis,
            flags=command.flags,
        ),
    )


def _overtaken(command: PublishVersion, versions: tuple[Version, ...]) -> errors.VersionConflict:
    path = f"{command.domain}/{command.adapter}"
    if not versions:
        return errors.VersionConflict(f"{path} has no version yet. Expect 0, or expect nothing.")
    newest = versions[-1]
    return errors.VersionConflict(
        f"The newest version of {path} is {newest.number}, not {command.expected}: "
        f"{newest.publisher} published it at {newest.published}. Look at what it changed "
        f"(lorary show {newest.ref}), then publish on top of it."
    )


def spare(catalog: Catalog, digests: set[str], read_at: int) -> None:
    """Raises `BeingCollected` for blobs that are being removed, or may have been removed since they
    were read back after commit `read_at`: the log has decided that first."""
    if digests & set(catalog.condemned) or read_at < catalog.swept:
        raise errors.BeingCollected(
            "Some of these files are being removed as garbage just now. Repeat in a moment."
        )


def approve(catalog: Catalog, command: ApproveVersion, actor: str) -> tuple[AnyEvent, ...]:
    """An expert's word for these bytes; never the publisher's."""
    ref = AdapterRef(command.domain, command.adapter, version=command.version)
    version = catalog.resolve(ref)
    if version.digest != command.digest:
        raise errors.Conflict(
            f"{ref} has digest {version.digest[:12]}, not {command.digest[:12]}. "
            "Review the bytes that are published."
        )
    who = person(catalog.keys, actor)
    if who in authors(catalog, version):
        raise errors.Forbidden(
            f"{actor} published the weights of {ref} and cannot approve them. Ask a colleague."
        )
    counting = (key for key in version.approvers if in_good_standing(catalog.keys, key))
    if who in {person(catalog.keys, key) for key in counting}:
        return ()
    return (
        VersionApproved(
            domain=command.domain,
            adapter=command.adapter,
            version=command.version,
            digest=command.digest,
        ),
    )


def revoke(catalog: Catalog, command: RevokeVersion) -> tuple[AnyEvent, ...]:
    """Refuse a version everywhere; again changes nothing."""
    ref = AdapterRef(command.domain, command.adapter, version=command.version)
    if not command.reason.strip():
        raise errors.BadRequest("Say why: every caller of the version will read the reason.")
    if catalog.find(ref).revoked is not None:
        return ()
    return (
        VersionRevoked(
            domain=command.domain,
            adapter=command.adapter,
            version=command.version,
            reason=command.reason,
        ),
    )


def tombstone(catalog: Catalog, command: TombstoneVersion) -> tuple[AnyEvent, ...]:
    """Give up the bytes of a version that no alias names."""
    ref = AdapterRef(command.domain, command.adapter, version=command.version)
    if not command.reason.strip():
        raise errors.BadRequest("Say why: whoever asks for the version will read the reason.")
    if catalog.find(ref).tombstone is not None:
        return ()
    adapter = catalog.adapter(AdapterRef(command.domain, command.adapter))
    named = [*adapter.aliases.items(), *((a, s.candidate) for a, s in adapter.splits.items())]
    naming = sorted(alias for alias, number in named if number == command.version)
    if naming:
        raise errors.Conflict(f"{ref} is named by {', '.join(naming)}. Move those aliases first.")
    return (
        VersionTombstoned(
            domain=command.domain,
            adapter=command.adapter,
            version=command.version,
            reason=command.reason,
        ),
    )


def condemn(catalog: Catalog, command: CondemnBlobs) -> tuple[AnyEvent, ...]:
    """Announce which blobs a collection removes, sparing those in use by now."""
    if catalog.condemned:
        raise errors.BeingCollected(
            "Another collection has not ended. If it died, end it: lorary gc --apply --resume"
        )
    unused = set(command.digests) - blobs_in_use(catalog)
    return (BlobsCondemned(digests=tuple(sorted(unused))),) if unused else ()
