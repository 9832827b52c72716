"""API keys: who may hold one, with which roles, until when."""

from collections.abc import Iterable
from typing import Annotated

import msgspec
from annotated_types import MaxLen

from adapters.fields import Digest, Name, Reason, ShortText
from registry import errors, times
from registry.model.access import (
    ANY_DOMAIN,
    EXPERTS,
    RECOVERY,
    ROLES,
    as_role,
    check_active,
    has_role,
)
from registry.model.base import Command, Draft, Event, Route, made_of
from registry.model.catalog import Catalog, Grant, Key

OPERATOR = tuple(Grant(role, ANY_DOMAIN) for role in ROLES if role not in EXPERTS)
"""What an operator's first key may do: everything but an expert's part."""


class KeyIssued(Event, frozen=True):
    """An API key; only a digest of its secret is kept."""

    key: str
    name: str
    secret_sha256: str
    grants: tuple[Grant, ...]
    expires: str | None = None
    person: str | None = None
    service: bool = False

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Add the key."""
        draft.keys[self.key] = made_of(Key, self, id=self.key, issued=at, issuer=by)


class KeyRevoked(Event, frozen=True):
    """The key opens nothing any more."""

    key: str
    reason: str

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Revoke the key."""
        draft.keys[self.key] = msgspec.structs.replace(draft.keys[self.key], revoked=self.reason)


class IssueKey(Command, frozen=True):
    """Make a key known; the caller generated the secret and shows it once."""

    event = KeyIssued
    key: Name
    name: Name
    secret_sha256: Digest
    grants: Annotated[tuple[Grant, ...], MaxLen(100)]
    expires: ShortText | None = None
    person: Name | None = None
    """Who holds it: all keys of a person count once. None: whom the name names."""
    service: bool = False
    """Whether a program holds it, which then neither reviews nor approves."""

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Make a key known that opens something and has not expired before it begins."""
        if self.key in catalog.keys:
            raise errors.Conflict(f"Key id {self.key} is taken. Generate another key.")
        if not self.grants:
            raise errors.BadRequest("A key without a grant opens nothing. Add ROLE:DOMAIN.")
        for grant in self.grants:
            as_role(grant.role)
            if grant.domain != ANY_DOMAIN:
                catalog.domain(grant.domain)
        if self.expires is not None:
            _check_expiry(self.expires, now)
        self._check_person()
        yield self.caused()

    def _check_person(self) -> None:
        """Raises `BadRequest` for an expert who could be taken for another, or is a program."""
        roles = sorted({grant.role for grant in self.grants} & {*EXPERTS})
        if not roles:
            return
        if self.service:
            raise errors.BadRequest(
                f"A service cannot hold the role {roles[0]!r}: experts are persons. Issue the key "
                "to a person."
            )
        if not (self.person or self.name).isascii():
            raise errors.BadRequest(
                f"Experts are distinguished by name, and {(self.person or self.name)[:60]!r} holds "
                "letters that can look like others. Name the person in ASCII, such as by an e-mail "
                "address: --person."
            )


class AccessRecovered(Event, frozen=True):
    """Whoever holds the store's credentials issued a new operator's key."""

    key: str
    name: str
    secret_sha256: str
    reason: str

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Add the key."""
        key = made_of(Key, self, id=self.key, grants=OPERATOR, issued=at, issuer=by)
        draft.keys[self.key] = key


class RecoverAccess(Command, frozen=True):
    """Issue an operator's key by the store's credentials, where no operator's key is left."""

    event = AccessRecovered
    given_by = RECOVERY
    key: Name
    name: Name
    secret_sha256: Digest
    reason: Reason

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Issue it; the log records that no key was used."""
        if not catalog.registry:
            raise errors.Conflict("This store holds no registry. Create one: lorary init")
        if self.key in catalog.keys:
            raise errors.Conflict(f"Key id {self.key} is taken. Generate another key.")
        yield self.caused()


class RevokeKey(Command, frozen=True):
    """Revoke a key for good."""

    event = KeyRevoked
    route = Route("POST", "/keys/{key}/revocation")
    key: Name
    reason: Reason

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Revoke it; again changes nothing.

        Raises `UnknownKey`, and `Conflict` for an operator's key if no other one that never expires
        is left: sooner or later nobody could administer the registry any more.
        """
        key = catalog.keys.get(self.key)
        if key is None:
            raise errors.UnknownKey(f"There is no key {self.key!r}. See `lorary key ls`.")
        if key.revoked is not None:
            return
        if _administers(key, now) and not set(permanent_operators(catalog)) - {key.id}:
            raise errors.Conflict(
                f"{key.id} ({key.name}) is the last operator's key, or every other one expires. "
                "Issue another first, without --expires: lorary key issue NAME --grant operate:*"
            )
        yield self.caused()


def permanent_operators(catalog: Catalog) -> list[str]:
    """Ids of the keys that can issue keys forever: not revoked, and without an expiry."""
    return [
        key.id
        for key in catalog.keys.values()
        if key.revoked is None and key.expires is None and has_role(key, "operate", ANY_DOMAIN)
    ]


def _administers(key: Key, now: str) -> bool:
    """Whether `key` can issue keys at `now`."""
    try:
        check_active(key, now)
    except errors.Unauthenticated:
        return False
    return has_role(key, "operate", ANY_DOMAIN)


def _check_expiry(expires: str, now: str) -> None:
    try:
        ends = times.parse(expires)
    except ValueError as error:
        raise errors.BadRequest(f"Invalid expiry: {error}") from error
    if ends <= times.instant(now):
        raise errors.BadRequest(f"The expiry {expires} has passed. Choose a later one.")
