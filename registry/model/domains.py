"""Domains: their policies, and the adapter that a domain's bare name means."""

from collections.abc import Iterable

from adapters.fields import Name
from adapters.names import AdapterRef, check_alias, check_name
from registry import errors
from registry.model.access import ANY_DOMAIN, Role, as_role
from registry.model.base import Command, Draft, Event, Route
from registry.model.catalog import Catalog, Domain
from registry.model.policies import Policy, weakened
from registry.model.tasks import check_rule
from registry.signing import fingerprint

RESERVED = frozenset(("adapters", "api", "lfs", "reviews", "static"))
"""Names that no domain may have: they begin the addresses of the registry's own routes."""


class DomainCreated(Event, frozen=True):
    """A domain and its policy."""

    domain: str
    policy: Policy

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Add the domain."""
        draft.domains[self.domain] = Domain(self.domain, self.policy)


class PolicyChanged(Event, frozen=True):
    """A domain's policy from here on; versions already promoted stay."""

    domain: str
    policy: Policy
    weakened: tuple[str, ...] = ()
    """The fields that protect less than before."""

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Replace the policy."""
        draft.change_domain(self.domain, policy=self.policy)


class DefaultAdapterSet(Event, frozen=True):
    """Which adapter the bare domain name means."""

    domain: str
    adapter: str

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Set the default."""
        draft.change_domain(self.domain, default=self.adapter)


class CreateDomain(Command, frozen=True):
    """Open a domain under a policy."""

    event = DomainCreated
    route = Route("POST", "/domains", 201)
    domain: Name
    policy: Policy = Policy()

    def needs(self, catalog: Catalog) -> tuple[Role, str]:
        """No one has a role in a domain that does not exist yet."""
        return self.role, ANY_DOMAIN

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Open it; the same policy again changes nothing."""
        check_name(self.domain, "domain")
        if self.domain in RESERVED:
            raise errors.BadRequest(f"{self.domain!r} is part of an address here. Choose another.")
        check_policy(self.policy, catalog, self.domain)
        known = catalog.domains.get(self.domain)
        if known is None:
            yield self.caused()
        elif known.policy != self.policy:
            raise errors.Conflict(
                f"Domain {self.domain!r} exists with another policy. Change that policy instead."
            )


class ChangePolicy(Command, frozen=True):
    """Replace a domain's policy. With `expected`, only if that is the policy now."""

    event = PolicyChanged
    domain: Name
    policy: Policy
    expected: Policy | None = None
    weaken: bool = False
    """Whether the new policy may protect less than the old one."""

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Replace the policy; versions that are in production already stay.

        Raises `Conflict` if the policy is no longer the expected one, and `PolicyWeakened` for a
        policy that protects less unless the command says that it may.
        """
        check_policy(self.policy, catalog, self.domain)
        old = catalog.domain(self.domain).policy
        if old == self.policy:
            return
        if self.expected is not None and self.expected != old:
            raise errors.Conflict(
                f"The policy of {self.domain!r} was changed meanwhile. Look at it, then change it "
                f"again: lorary domain policy {self.domain}"
            )
        weaker = weakened(old, self.policy)
        if weaker and not self.weaken:
            raise errors.PolicyWeakened(self.domain, weaker)
        yield self.caused(weakened=weaker)


class SetDefaultAdapter(Command, frozen=True):
    """Let the bare domain name mean `adapter`."""

    event = DefaultAdapterSet
    route = Route("PUT", "/domains/{domain}/default")
    domain: Name
    adapter: Name

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Set the default to one of the domain's adapters."""
        domain = catalog.domain(self.domain)
        catalog.adapter(AdapterRef(self.domain, self.adapter))
        if domain.default != self.adapter:
            yield self.caused()


def check_policy(policy: Policy, catalog: Catalog, domain: str) -> None:
    """Raises `BadRequest` for a policy that `domain` cannot keep, and `UnknownTask` or
    `UnknownVersion` for a task that it lacks. The fields' own limits are checked before."""
    for alias in policy.guarded:
        check_alias(alias)
    as_role(policy.guarded_role)
    for signer in policy.signers:
        fingerprint(signer)
    if policy.signature_required and not policy.signers:
        raise errors.BadRequest("A required signature needs signers. Give their public keys.")
    for role, needed in policy.approvers.items():
        as_role(role)
        if needed > policy.approvals:
            raise errors.BadRequest(
                f"Of {policy.approvals} approving experts, {needed} cannot have the role {role}. "
                "Ask for more approvals, or for fewer of that role."
            )
    if len({rule.suite for rule in policy.suites}) < len(policy.suites):
        raise errors.BadRequest("A suite occurs twice in the policy. Join its rules.")
    for rule in policy.suites:
        check_rule(catalog, domain, rule)
