"""Upload addresses: Git LFS clients send a file without their token, so its address holds one.

A ticket is a signed token (`registry.tokens`) whose claims are the content's digest and size.
"""

from registry import tokens
from registry.errors import Unauthenticated
from registry.model.catalog import Catalog, Key

SECONDS = 3600
PURPOSE = "upload"


def issue(key: Key, oid: str, size: int, service_secret: str) -> str:
    """A ticket to send the content with digest `oid` and `size` bytes, once or again."""
    return tokens.issue(service_secret, PURPOSE, key, f"{oid}-{size}", SECONDS)


def redeem(catalog: Catalog, ticket: str, service_secret: str) -> tuple[Key, str, int]:
    """The key, the content's digest and its size in bytes; raises `Unauthenticated`."""
    try:
        token = tokens.verify(catalog, service_secret, PURPOSE, ticket)
    except Unauthenticated as error:
        raise Unauthenticated(f"{error.message} Start the upload again.") from error
    oid, _, size = token.claims.partition("-")
    return token.key, oid, int(size)
