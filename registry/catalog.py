"""The state of a registry, folded from its log. Pure: no clock, no store, no socket."""

import difflib
from collections.abc import Iterable
from typing import assert_never

import msgspec

from adapters.admission import Facts
from adapters.lineage import Lineage
from adapters.names import DEFAULT_ALIAS, AdapterRef
from adapters.spectra import Spectrum
from registry import errors
from registry.events import (
    AliasMoved,
    AnyEvent,
    BaseModelRegistered,
    BlobsCondemned,
    BlobsSwept,
    Commit,
    DefaultAdapterSet,
    DomainCreated,
    Entry,
    File,
    Grant,
    KeyIssued,
    KeyRevoked,
    Policy,
    PolicyChanged,
    RegistryCreated,
    VersionApproved,
    VersionPublished,
    VersionRevoked,
    VersionTombstoned,
)


class Base(msgspec.Struct, frozen=True):
    """A registered base model."""

    name: str
    digest: str
    shapes: str
    known_as: tuple[str, ...]


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable version of an adapter."""

    domain: str
    adapter: str
    number: int
    digest: str
    base: str
    files: tuple[File, ...]
    facts: Facts
    publisher: str
    published: str
    approvers: tuple[str, ...] = ()
    revoked: str | None = None
    """Why it was revoked; None while it may be served."""
    tombstone: str | None = None
    """Why its bytes were given up; None while they are kept."""
    lineage: Lineage = Lineage()
    signer: str | None = None
    spectrum: Spectrum | None = None
    analysis: str | None = None
    flags: tuple[str, ...] = ()

    @property
    def ref(self) -> AdapterRef:
        """The pinned name, the only one vLLM ever sees."""
        return AdapterRef(self.domain, self.adapter, version=self.number)

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)


class Move(msgspec.Struct, frozen=True):
    """One move of an alias: who, when, from what, to what."""

    alias: str
    version: int
    previous: int | None
    actor: str
    time: str


class Adapter(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter: its versions in order, its aliases, and how they moved."""

    domain: str
    name: str
    versions: tuple[Version, ...] = ()
    aliases: dict[str, int] = {}
    moves: tuple[Move, ...] = ()


class Domain(msgspec.Struct, frozen=True):
    """A domain: its policy and the adapter that its bare name means."""

    name: str
    policy: Policy
    default: str | None = None


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """An API key as the log knows it."""

    id: str
    name: str
    secret_sha256: str
    grants: tuple[Grant, ...]
    issued: str
    expires: str | None = None
    revoked: str | None = None


class Catalog(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the log says up to one commit. Never mutated: a fold makes a new one."""

    registry: str = ""
    sequence: int = 0
    head: str | None = None
    """SHA-256 of the bytes of commit `sequence`."""
    time: str = ""
    bases: dict[str, Base] = {}
    domains: dict[str, Domain] = {}
    adapters: dict[str, Adapter] = {}
    """By path, `domain/adapter`."""
    keys: dict[str, Key] = {}
    condemned: tuple[str, ...] = ()
    """Blobs that are being removed: nothing may name them."""

    def adapter(self, ref: AdapterRef) -> Adapter:
        """The adapter that `ref` means, the domain's default if it names none.

        Raises `UnknownDomain`, `NoDefaultAdapter` or `UnknownAdapter` with the nearest names.
        """
        path = ref.path
        if ref.adapter is None:
            domain = self.domain(ref.domain)
            if domain.default is None:
                raise errors.NoDefaultAdapter(ref.domain, self._paths_in(ref.domain))
            path = f"{ref.domain}/{domain.default}"
        found = self.adapters.get(path)
        if found is None:
            raise errors.UnknownAdapter(path, self.near(path))
        return found

    def domain(self, name: str) -> Domain:
        """The domain called `name`; raises `UnknownDomain`."""
        found = self.domains.get(name)
        if found is None:
            raise errors.UnknownDomain(name, difflib.get_close_matches(name, self.domains, n=3))
        return found

    def resolve(self, ref: AdapterRef) -> Version:
        """The version that `ref` names now.

        Raises what `adapter` raises, `UnknownVersion`, `UnknownAlias`, or `VersionRevoked`.
        """
        version = self.find(ref)
        if version.revoked is not None:
            raise errors.VersionRevoked(str(version.ref), version.revoked)
        if version.tombstone is not None:
            raise errors.VersionGone(str(version.ref), version.tombstone)
        return version

    def find(self, ref: AdapterRef) -> Version:
        """As `resolve`, but a revoked version is found, too: for people who look, not callers."""
        adapter = self.adapter(ref)
        number = ref.version
        if number is None:
            alias = ref.alias or DEFAULT_ALIAS
            number = adapter.aliases.get(alias)
            if number is None:
                path = f"{adapter.domain}/{adapter.name}"
                raise errors.UnknownAlias(path, alias, sorted(adapter.aliases))
        if not 1 <= number <= len(adapter.versions):
            path = f"{adapter.domain}/{adapter.name}"
            raise errors.UnknownVersion(path, number, len(adapter.versions))
        return adapter.versions[number - 1]

    def near(self, path: str) -> list[str]:
        """Up to three adapter paths that a person may have meant by `path`."""
        by_path = difflib.get_close_matches(path, self.adapters, n=3, cutoff=0.5)
        name = path.rpartition("/")[2]
        same_name = [p for p in self.adapters if p.rpartition("/")[2] == name]
        return list(dict.fromkeys([*same_name, *by_path]))[:3]

    def _paths_in(self, domain: str) -> list[str]:
        return sorted(path for path in self.adapters if path.startswith(f"{domain}/"))


def fold_commit(catalog: Catalog, commit: Commit, digest: str) -> Catalog:
    """The state after `commit`, whose bytes have SHA-256 `digest`.

    The caller has checked that the commit follows `catalog` (sequence and hash chain).
    """
    after = fold(catalog, commit.entries, commit.time)
    return msgspec.structs.replace(after, sequence=commit.sequence, head=digest, time=commit.time)


def fold(catalog: Catalog, entries: Iterable[Entry], time: str) -> Catalog:
    """The state after `entries`, all of one commit made at `time`. `catalog` is left as it was."""
    tables = _Tables(
        registry=catalog.registry,
        bases=dict(catalog.bases),
        domains=dict(catalog.domains),
        adapters=dict(catalog.adapters),
        keys=dict(catalog.keys),
        condemned=catalog.condemned,
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
        condemned=tables.condemned,
    )


def blobs_in_use(catalog: Catalog) -> set[str]:
    """Digests of every blob that a base model, or a version whose bytes are kept, needs."""
    used = {base.shapes for base in catalog.bases.values()}
    for adapter in catalog.adapters.values():
        for version in adapter.versions:
            if version.tombstone is None:
                used.update(file.sha256 for file in version.files)
                if version.analysis is not None:
                    used.add(version.analysis)
    return used


class _Tables(msgspec.Struct, kw_only=True):
    """Private copies of a catalog's tables while a commit is folded in."""

    registry: str
    bases: dict[str, Base]
    domains: dict[str, Domain]
    adapters: dict[str, Adapter]
    keys: dict[str, Key]
    condemned: tuple[str, ...]

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
            case VersionApproved():
                self._change_version(event, approver=actor)
            case VersionRevoked():
                self._change_version(event, revoked=event.reason)
            case VersionTombstoned():
                self._change_version(event, tombstone=event.reason)
            case BlobsCondemned():
                self.condemned = event.digests
            case BlobsSwept():
                self.condemned = ()
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
        move = Move(event.alias, event.version, event.previous, actor, time)
        self.adapters[path] = msgspec.structs.replace(
            adapter,
            aliases={**adapter.aliases, event.alias: event.version},
            moves=(*adapter.moves, move),
        )

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
