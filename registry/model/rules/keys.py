"""Who may hold a key, with what, until when."""

from registry import errors, times
from registry.model.access import ANY_DOMAIN, as_role, check_active, has_role
from registry.model.catalog import Catalog, Key
from registry.model.commands import (
    IssueKey,
    RevokeKey,
)
from registry.model.events import (
    AnyEvent,
    KeyIssued,
    KeyRevoked,
)


def issue_key(catalog: Catalog, command: IssueKey, now: str) -> tuple[AnyEvent, ...]:
    """Make a key known that opens something and has not expired before it begins."""
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
        ends = times.parse(expires)
    except ValueError as error:
        raise errors.BadRequest(f"Invalid expiry: {error}") from error
    if ends <= times.instant(now):
        raise errors.BadRequest(f"The expiry {expires} has passed. Choose a later one.")


def revoke_key(catalog: Catalog, command: RevokeKey, now: str) -> tuple[AnyEvent, ...]:
    """Revoke a key for good. Revoking it again changes nothing.

    Raises `UnknownKey`, and `Conflict` for an operator's key if no other one that never expires is
    left: sooner or later nobody could administer the registry any more.
    """
    key = catalog.keys.get(command.key)
    if key is None:
        raise errors.UnknownKey(f"There is no key {command.key!r}. See `lorary keys ls`.")
    if key.revoked is not None:
        return ()
    if _administers(key, now) and not set(permanent_operators(catalog)) - {key.id}:
        raise errors.Conflict(
            f"{key.id} ({key.name}) is the last operator's key, or every other one expires. Issue "
            "another first, without --expires: lorary keys issue NAME --grant operate:*"
        )
    return (KeyRevoked(key=command.key, reason=command.reason),)


def permanent_operators(catalog: Catalog) -> list[str]:
    """Ids of the keys that can issue keys for ever: not revoked, and without an expiry."""
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
