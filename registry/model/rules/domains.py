"""What a registry holds: its beginning, base models, domains and their policies."""

from adapters.names import check_alias, check_name
from registry import errors
from registry.model.access import ANY_DOMAIN, ROLES, as_role
from registry.model.catalog import Catalog
from registry.model.commands import (
    ChangePolicy,
    CreateDomain,
    CreateRegistry,
    RegisterBase,
)
from registry.model.events import (
    AnyEvent,
    BaseModelRegistered,
    DomainCreated,
    Grant,
    KeyIssued,
    Policy,
    PolicyChanged,
    RegistryCreated,
)
from registry.model.policies import weakened
from registry.model.rules.versions import spare
from registry.signing import fingerprint

RESERVED = frozenset(("adapters", "api", "lfs", "reviews", "static"))
"""Names that no domain may have: they begin the addresses of the registry's own routes."""
MAX_LOOKS = 1000
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
    """Make a base model known. The same weights again add names and measurements, if any."""
    known = catalog.bases.get(command.name)
    names = command.known_as
    for other in catalog.bases.values():
        taken = {other.name, *other.known_as} & {command.name, *names}
        if taken and other.name != command.name and other.digest != command.digest:
            raise errors.Conflict(
                f"{min(taken)!r} already names base model {other.name!r}, which has other weights. "
                "Choose another name."
            )
    if known is not None:
        if known.digest != command.digest:
            raise errors.Conflict(
                f"Base model {command.name!r} is registered with other weights "
                f"({known.digest[:12]}). Register these under another name."
            )
        names = tuple(dict.fromkeys((*known.known_as, *names)))
        if (known.shapes, known.known_as) == (command.shapes, names):
            return ()
    spare(catalog, {command.shapes}, command.read_at)
    return (
        BaseModelRegistered(
            name=command.name, digest=command.digest, shapes=command.shapes, known_as=names
        ),
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


def change_policy(catalog: Catalog, command: ChangePolicy) -> tuple[AnyEvent, ...]:
    """Replace a domain's policy; versions that are in production already stay.

    Raises `Conflict` if the policy is no longer the expected one, and `PolicyWeakened` for a policy
    that protects less unless the command says that it may.
    """
    check_policy(command.policy)
    now = catalog.domain(command.domain).policy
    if now == command.policy:
        return ()
    if command.expected is not None and command.expected != now:
        raise errors.Conflict(
            f"The policy of {command.domain!r} was changed meanwhile. Look at it, then change it "
            f"again: lorary domain policy {command.domain}"
        )
    weaker = weakened(now, command.policy)
    if weaker and not command.weaken:
        raise errors.PolicyWeakened(command.domain, weaker)
    return (PolicyChanged(domain=command.domain, policy=command.policy, weakened=weaker),)


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
    for role, needed in policy.approvers.items():
        as_role(role)
        if not 0 <= needed <= policy.approvals:
            raise errors.BadRequest(
                f"Of {policy.approvals} approving experts, {needed} cannot have the role {role}. "
                "Ask for more approvals, or for fewer of that role."
            )
    _check_evaluation(policy)


def _check_evaluation(policy: Policy) -> None:
    """The part of a policy that is about evaluations."""
    if not 0 < policy.alpha < 0.5:
        raise errors.BadRequest("alpha, the chance of a wrong pass, lies in 0..0.5. Take 0.05.")
    if not 1 <= policy.looks <= MAX_LOOKS:
        raise errors.BadRequest(f"A held-out set is looked at 1 to {MAX_LOOKS} times. Take 10.")
    if policy.max_report_days is not None and policy.max_report_days < 1:
        raise errors.BadRequest("A report counts for 1 day at least. Say more, or nothing.")
    if policy.target_risk is not None and not 0 < policy.target_risk < 1:
        raise errors.BadRequest("A target risk is a share of wrong answers, such as 0.02.")
    if len({rule.suite for rule in policy.suites}) < len(policy.suites):
        raise errors.BadRequest("A suite occurs twice in the policy. Join its rules.")
    for rule in policy.suites:
        shares = [*rule.floors.values(), rule.confident_at]
        shares += [x for x in (rule.margin, rule.confident_errors) if x is not None]
        if not all(0 <= share <= 1 for share in shares):
            raise errors.BadRequest(
                f"The rules for suite {rule.suite[:100]!r} are shares between 0 and 1: 0.02 is "
                "two points."
            )
