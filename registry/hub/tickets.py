"""Addresses that stand for a key: Git LFS clients send a file without saying who they are.

A ticket names the key, the content's digest and size, and when it ends; it is signed by the
registry (`access.sign`). A revoked key's tickets end with it.
"""

import hmac
import time

from registry.access import check_active, sign
from registry.catalog import Catalog, Key
from registry.errors import Unauthenticated
from registry.registry import utc_now

SECONDS = 3600
PURPOSE = "upload"


def issue(key: Key, oid: str, size: int, service_secret: str) -> str:
    """A ticket to send the content with digest `oid` and `size` bytes, once or again."""
    claims = f"{key.id}-{oid}-{size}-{int(time.time()) + SECONDS}"
    return f"{claims}-{sign(service_secret, PURPOSE, key, claims)}"


def redeem(catalog: Catalog, ticket: str, service_secret: str) -> tuple[str, str, int]:
    """The key's id, the digest and the size; raises `Unauthenticated`."""
    claims, _, signature = ticket.rpartition("-")
    parts = claims.split("-")
    key = catalog.keys.get(parts[0])
    made = sign(service_secret, PURPOSE, key, claims) if key else ""
    if key is None or not hmac.compare_digest(made, signature) or int(parts[3]) < time.time():
        raise Unauthenticated("That address is not valid (any more). Start the upload again.")
    check_active(key, utc_now())
    return key.id, parts[1], int(parts[2])
