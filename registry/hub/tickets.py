"""Addresses that stand for a key: Git LFS clients send a file without saying who they are.

A ticket names the key, the content's digest and size, and when it ends; it is signed (HMAC-SHA256)
with the stored digest of the key's secret, which only registries know. A revoked key's tickets end
with it.
"""

import hashlib
import hmac
import time

from registry.access import check_active
from registry.catalog import Catalog, Key
from registry.errors import Unauthenticated
from registry.registry import utc_now

SECONDS = 3600


def issue(key: Key, oid: str, size: int) -> str:
    """A ticket to send the content with digest `oid` and `size` bytes, once or again."""
    claims = f"{key.id}-{oid}-{size}-{int(time.time()) + SECONDS}"
    return f"{claims}-{_sign(key, claims)}"


def redeem(catalog: Catalog, ticket: str) -> tuple[str, str, int]:
    """The key's id, the digest and the size; raises `Unauthenticated`."""
    claims, _, signature = ticket.rpartition("-")
    parts = claims.split("-")
    key = catalog.keys.get(parts[0])
    sound = key is not None and hmac.compare_digest(_sign(key, claims), signature)
    if key is None or not sound or int(parts[3]) < time.time():
        raise Unauthenticated("That address is not valid (any more). Start the upload again.")
    check_active(key, utc_now())
    return key.id, parts[1], int(parts[2])


def _sign(key: Key, claims: str) -> str:
    return hmac.new(key.secret_sha256.encode(), claims.encode(), hashlib.sha256).hexdigest()
