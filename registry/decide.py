"""Whether a command is allowed now, and what then happens. Pure: the time is passed in.

`decide` sees the state that its events will be appended to (the log makes sure of that), so every
rule here holds however many registries run.
"""

from datetime import datetime
from typing import assert_never

from adapters.names import AdapterRef, check_alias, check_name
from registry import errors
from registry.access import (
    ANY_DOMAIN,
    BOOTSTRAP,
    ROLES,
    Role,
    as_role,
    check_active,
    require,
)
from registry.catalog import Adapter, Catalog, Version, blobs_in_use
from registry.commands import (
    ApproveVersion,
    ChangePolicy,
    Command,
    CondemnBlobs,
    CreateDomain,
    CreateRegistry,
    IssueKey,
    MoveAlias,
    PublishVersion,
    RegisterBase,
    RevokeKey,
    RevokeVersion,
    SetDefaultAdapter,
    SweepBlobs,
    TombstoneVersion,
)
from registry.events import (
    AliasMoved,
    AnyEvent,
    BaseModelRegistered,
    BlobsCondemned,
    BlobsSwept,
    DefaultAdapterSet,
    DomainCreated,
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
from registry.signing import fingerprint

RESERVED = frozenset(("adapters", "api", "lfs", "static"))
"""Names that no domain may have: they begin the addresses of the registry's own routes."""
EVERYTHING = tuple(Grant(role, ANY_DOMAIN) for role in ROLES)


def decide(catalog: Catalog, command: Command, actor: str, now: str) -> tuple[AnyEvent, ...]:
    """The events that `command`, given by key id `actor` at `now`, causes in `catalog`.

    An empty tuple means: already so. Raises a `LoraryError` that says why not.
    """
    _authorise(catalog, command, actor, now)
    match command:
        case CreateRegistry():
            return _create_registry(catalog, command)
        case RegisterBase():
            return _register_base(catalog, command)
        case CreateDomain():
            return _create_domain(catalog, command)
        case ChangePolicy():
            _check_policy(command.policy)
            same = catalog.domain(command.domain).policy == command.policy
            return () if same else (PolicyChanged(domain=command.domain, policy=command.policy),)
        case SetDefaultAdapter():
            return _set_default(catalog, command)
        case PublishVersion():
            return _publish(catalog, command)
        case MoveAlias():
            return _move_alias(catalog, command)
        case ApproveVersion():
            return _approve(catalog, command, actor)
        case RevokeVersion():
            return _revoke_version(catalog, command)
        case TombstoneVersion():
            return _tombstone(catalog, command)
        case CondemnBlobs():
            return _condemn(catalog, command)
        case SweepBlobs():
            return (BlobsSwept(),) if catalog.condemned else ()
        case IssueKey():
            return _issue_key(catalog, command, now)
        case RevokeKey():
            return _revoke_key(catalog, command)
        case _ as unreachable:
            assert_never(unreachable)


def missing_for_promotion(version: Version, policy: Policy) -> tuple[str, ...]:
    """What a version still lacks before a guarded alias of its domain may name it."""
    experts = {key for key in version.approvers if key != version.publisher}
    lacking = policy.approvals - len(experts)
    if lacking <= 0:
        return ()
    return (
        f"{lacking} more approval(s) by experts other than its publisher "
        f"(lorary approve {version.ref})",
    )


def _authorise(catalog: Catalog, command: Command, actor: str, now: str) -> None:
    """Raises `Unauthenticated` or `Forbidden` unless `actor` may give this command at all."""
    if isinstance(command, CreateRegistry):
        if actor != BOOTSTRAP:
            raise errors.Forbidden("A registry is created once, by `lorary init`.")
        return
    key = catalog.keys.get(actor)
    if key is None:
        raise errors.Unauthenticated("That key is not known here.")
    check_active(key, now)
    role, domain = _needs(catalog, command)
    require(key, role, domain)


def _needs(catalog: Catalog, command: Command) -> tuple[Role, str]:
    """The role, and where, that a command takes."""
    match command:
        case PublishVersion():
            return "publish", command.domain
        case MoveAlias():
            domain = catalog.domains.get(command.domain)
            if domain is not None and command.alias in domain.policy.guarded:
                return as_role(domain.policy.guarded_role), command.domain
            return "publish", command.domain
        case ApproveVersion():
            return "approve", command.domain
        case SetDefaultAdapter() | ChangePolicy() | RevokeVersion() | TombstoneVersion():
            return "operate", command.domain
        case _:
            return "operate", ANY_DOMAIN


def _create_registry(catalog: Catalog, command: CreateRegistry) -> tuple[AnyEvent, ...]:
    if catalog.registry:
        raise errors.Conflict("This store holds a registry already. Use it, or another place.")
    return (
        RegistryCreated(registry=command.registry),
        KeyIssued(
            key=command.key,
            name=command.key_name,
            secret_sha256=command.secret_sha256,
            grants=EVERYTHING,
        ),
    )


def _register_base(catalog: Catalog, command: RegisterBase) -> tuple[AnyEvent, ...]:
    known = catalog.bases.get(command.name)
    if known is None:
        _spare(catalog, {command.shapes})
        return (
            BaseModelRegistered(
                name=command.name,
                digest=command.digest,
                shapes=command.shapes,
                known_as=command.known_as,
            ),
        )
    if (known.digest, known.shapes) == (command.digest, command.shapes):
        return ()
    raise errors.Conflict(
        f"Base model {command.name!r} is registered with other weights ({known.digest[:12]}). "
        "Register these under another name."
    )


def _create_domain(catalog: Catalog, command: CreateDomain) -> tuple[AnyEvent, ...]:
    check_name(command.domain, "domain")
    if command.domain in RESERVED:
        raise errors.BadRequest(f"{command.domain!r} is part of an address here. Choose another.")
    _check_policy(command.policy)
    known = catalog.domains.get(command.domain)
    if known is None:
        return (DomainCreated(domain=command.domain, policy=command.policy),)
    if known.policy == command.policy:
        return ()
    raise errors.Conflict(
        f"Domain {command.domain!r} exists with another policy. Change that policy instead."
    )


def _check_policy(policy: Policy) -> None:
    for alias in policy.guarded:
        check_alias(alias)
    if policy.approvals < 0:
        raise errors.BadRequest("A policy cannot ask for fewer than 0 approvals.")
    as_role(policy.guarded_role)
    for signer in policy.signers:
        fingerprint(signer)
    if policy.keep is not None and policy.keep < 1:
        raise errors.BadRequest("A policy keeps at least the newest version. Say 1 or more.")
    if policy.signature_required and not policy.signers:
        raise errors.BadRequest("A required signature needs signers. Give their public keys.")


def _set_default(catalog: Catalog, command: SetDefaultAdapter) -> tuple[AnyEvent, ...]:
    domain = catalog.domain(command.domain)
    catalog.adapter(AdapterRef(command.domain, command.adapter))
    if domain.default == command.adapter:
        return ()
    return (DefaultAdapterSet(domain=command.domain, adapter=command.adapter),)


def _publish(catalog: Catalog, command: PublishVersion) -> tuple[AnyEvent, ...]:
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
    _spare(catalog, {file.sha256 for file in command.files} | {command.analysis or ""})
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


def _spare(catalog: Catalog, digests: set[str]) -> None:
    """Raises `BeingCollected` for blobs that are being removed: the log has decided that first."""
    if digests & set(catalog.condemned):
        raise errors.BeingCollected(
            "Some of these files are being removed as garbage just now. Repeat in a moment."
        )


def _move_alias(catalog: Catalog, command: MoveAlias) -> tuple[AnyEvent, ...]:
    check_alias(command.alias)
    adapter = _adapter(catalog, command.domain, command.adapter)
    target = catalog.resolve(AdapterRef(command.domain, command.adapter, version=command.version))
    current = adapter.aliases.get(command.alias)
    if command.expected is not None and command.expected != (current or 0):
        raise _lost_race(adapter, command)
    if current == command.version:
        return ()
    policy = catalog.domain(command.domain).policy
    if command.alias in policy.guarded:
        missing = missing_for_promotion(target, policy)
        if missing:
            raise errors.PromotionNotEarned(command.alias, str(target.ref), missing)
    return (
        AliasMoved(
            domain=command.domain,
            adapter=command.adapter,
            alias=command.alias,
            version=command.version,
            previous=current,
        ),
    )


def _lost_race(adapter: Adapter, command: MoveAlias) -> errors.Conflict:
    last = next((m for m in reversed(adapter.moves) if m.alias == command.alias), None)
    if last is None:
        return errors.Conflict(f"Alias {command.alias!r} does not exist yet. Expect 0, or drop it.")
    return errors.Conflict(
        f"Alias {command.alias!r} names version {last.version}, not {command.expected}: "
        f"{last.actor} moved it at {last.time}. Look at that version, then decide again."
    )


def _approve(catalog: Catalog, command: ApproveVersion, actor: str) -> tuple[AnyEvent, ...]:
    ref = AdapterRef(command.domain, command.adapter, version=command.version)
    version = catalog.resolve(ref)
    if version.digest != command.digest:
        raise errors.Conflict(
            f"{ref} has digest {version.digest[:12]}, not {command.digest[:12]}. "
            "Review the bytes that are published."
        )
    if version.publisher == actor:
        raise errors.Forbidden(f"{actor} published {ref} and cannot approve it. Ask a colleague.")
    if actor in version.approvers:
        return ()
    return (
        VersionApproved(
            domain=command.domain,
            adapter=command.adapter,
            version=command.version,
            digest=command.digest,
        ),
    )


def _revoke_version(catalog: Catalog, command: RevokeVersion) -> tuple[AnyEvent, ...]:
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


def _tombstone(catalog: Catalog, command: TombstoneVersion) -> tuple[AnyEvent, ...]:
    ref = AdapterRef(command.domain, command.adapter, version=command.version)
    if not command.reason.strip():
        raise errors.BadRequest("Say why: whoever asks for the version will read the reason.")
    if catalog.find(ref).tombstone is not None:
        return ()
    aliases = _adapter(catalog, command.domain, command.adapter).aliases
    naming = sorted(alias for alias, number in aliases.items() if number == command.version)
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


def _condemn(catalog: Catalog, command: CondemnBlobs) -> tuple[AnyEvent, ...]:
    if catalog.condemned:
        raise errors.BeingCollected(
            "Another collection has not ended. If it died, end it: lorary gc --apply --resume"
        )
    unused = set(command.digests) - blobs_in_use(catalog)
    return (BlobsCondemned(digests=tuple(sorted(unused))),) if unused else ()


def _issue_key(catalog: Catalog, command: IssueKey, now: str) -> tuple[AnyEvent, ...]:
    if command.key in catalog.keys:
        raise errors.Conflict(f"Key id {command.key} is taken. Generate another key.")
    if not command.grants:
        raise errors.BadRequest("A key without a grant opens nothing. Add ROLE:DOMAIN.")
    for grant in command.grants:
        as_role(grant.role)
        if grant.domain != ANY_DOMAIN:
            catalog.domain(grant.domain)
    if command.expires is not None:
        _check_expiry(command.expires, now)
    return (
        KeyIssued(
            key=command.key,
            name=command.name,
            secret_sha256=command.secret_sha256,
            grants=command.grants,
            expires=command.expires,
        ),
    )


def _check_expiry(expires: str, now: str) -> None:
    try:
        datetime.strptime(expires, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError as error:
        raise errors.BadRequest("Write the expiry in UTC, like 2027-01-31T00:00:00Z.") from error
    if expires <= now:
        raise errors.BadRequest(f"The expiry {expires} has passed. Choose a later one.")


def _revoke_key(catalog: Catalog, command: RevokeKey) -> tuple[AnyEvent, ...]:
    key = catalog.keys.get(command.key)
    if key is None:
        raise errors.UnknownKey(f"There is no key {command.key!r}. See `lorary keys ls`.")
    if key.revoked is not None:
        return ()
    return (KeyRevoked(key=command.key, reason=command.reason),)


def _adapter(catalog: Catalog, domain: str, name: str) -> Adapter:
    return catalog.adapter(AdapterRef(domain, name))
