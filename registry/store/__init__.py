"""Object stores: one protocol, a local directory and S3."""

from pathlib import Path

from registry.errors import BadRequest
from registry.store.base import ObjectInfo, ObjectStore, PutMode
from registry.store.local import LocalStore

__all__ = ["LocalStore", "ObjectInfo", "ObjectStore", "PutMode", "open_store"]


def open_store(url: str, *, s3_endpoint: str | None = None) -> ObjectStore:
    """The store at `url`: a directory, or `s3://bucket/prefix`. Nothing is contacted yet.

    Raises `BadRequest` for an address that is neither.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return LocalStore(Path(url))
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise BadRequest(
            f"Invalid store {url!r}. Use a directory or s3://BUCKET/PREFIX as LORARY_STORE."
        )
    from registry.store.s3 import S3Store  # boto3 takes half a second to import

    return S3Store(bucket, prefix, endpoint=s3_endpoint)
