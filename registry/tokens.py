"""Signed tokens that stand for a key without holding it: session cookies and upload addresses.

A token reads `<key id>.<claims>.<expiry, seconds since 1970>.<signature>`. The signature is an
HMAC-SHA256 over the purpose, the key's id, the digest of its secret and the rest. The service's
secret is its key because the log, which replicas and backups hold, must not be enough to make a
token. Revoking an API key ends its tokens.
"""

import hashlib
import hmac
import re
import time
from dataclasses import dataclass

from registry.errors import Unauthenticated
from registry.model.access import check_active
from registry.model.catalog import Catalog, Key
from registry.times import utc_now

_FORM = re.compile(r"([0-9A-Za-z_-]{1,64})\.([0-9a-z-]{0,200})\.([0-9]{1,12})\.([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Token:
    """What a valid token says."""

    key: Key
    claims: str
    expires: int
    """Seconds since 1970."""
    signature: str


def issue(service_secret: str, purpose: str, key: Key, claims: str, seconds: int) -> str:
    """A token for `key` that is valid for `seconds`; claims: letters, digits and `-`."""
    ends = int(time.time()) + seconds
    return f"{key.id}.{claims}.{ends}.{_sign(service_secret, purpose, key, claims, ends)}"


def verify(catalog: Catalog, service_secret: str, purpose: str, text: str) -> Token:
    """Read a token. Raises `Unauthenticated` unless it was issued here for `purpose`, has not
    expired, and its API key is active."""
    found = _FORM.fullmatch(text)
    key = catalog.keys.get(found[1]) if found else None
    if found is None or key is None:
        raise Unauthenticated("The token is not valid.")
    claims, ends, signature = found[2], int(found[3]), found[4]
    made = _sign(service_secret, purpose, key, claims, ends)
    if not hmac.compare_digest(made, signature) or ends < time.time():
        raise Unauthenticated("The token is not valid or has expired.")
    check_active(key, utc_now())
    return Token(key, claims, ends, signature)


def _sign(service_secret: str, purpose: str, key: Key, claims: str, ends: int) -> str:
    message = "\n".join((purpose, key.id, key.secret_sha256, claims, str(ends)))
    return hmac.new(service_secret.encode(), message.encode(), hashlib.sha256).hexdigest()
