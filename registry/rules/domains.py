"""What a registry holds: its beginning, base models, domains and their policies."""

from adapters.names import check_alias, check_name
from registry import errors
from registry.access import ANY_DOMAIN, ROLES, as_role
from registry.catalog import Catalog
from registry.commands import (
    CreateDomain,
    CreateRegistry,
    RegisterBase,
)
from registry.events import (
    AnyEvent,
    BaseModelRegistered,
    DomainCreated,
    Grant,
    KeyIssued,
    Policy,
    RegistryCreated,
)
from registry.rules.versions import spare
from registry.signing import fingerprint

RESERVED = frozenset(("adapters", "api", "lfs", "static"))
"""Names that no domain may have: they begin the addresses of the registry's own routes."""
EVERYTHING = tuple(Grant(role, ANY_DOMAIN) for role in ROLES)


def create_registry(catalog: Catalog, command: CreateRegistry) -> tuple[AnyEvent, ...]:
    """Begin an empty log."""
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


def register_base(catalog: Catalog, command: RegisterBase) -> tuple[AnyEvent, ...]:
    """Make a base model known; the same weights again change nothing."""
    known = catalog.bases.get(command.name)
    if known is None:
        spare(catalog, {command.shapes}, command.read_at)
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


def create_domain(catalog: Catalog, command: CreateDomain) -> tuple[AnyEvent, ...]:
    """Open a domain; the same policy again changes nothing."""
    check_name(command.domain, "domain")
    if command.domain in RESERVED:
        raise errors.BadRequest(f"{command.domain!r} is part of an address here. Choose another.")
    check_policy(command.policy)
    known = catalog.domains.get(command.domain)
    if known is None:
        return (DomainCreated(domain=command.domain, policy=command.policy),)
    if known.policy == command.policy:
        return ()
    raise errors.Conflict(
        f"Domain {command.domain!r} exists with another policy. Change that policy instead."
    )


def check_policy(policy: Policy) -> None:
    """Raises `BadRequest` for a policy that cannot be kept."""
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
