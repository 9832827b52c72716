"""Reading back what a publisher uploaded."""

import contextlib
from collections.abc import Iterator

from registry import errors
from registry.model.catalog import File
from registry.store.blobs import Blobs


@contextlib.contextmanager
def reading_back(blobs: Blobs, file: File) -> Iterator[None]:
    """Around reading a file's content from the store: raises `ContentMissing` if it is not there,
    or is not what the digest says; then it is marked, so that an upload replaces it."""
    try:
        yield
    except errors.ObjectNotFound as error:
        raise errors.ContentMissing(
            f"The content of {file.path[:100]!r} is not stored. Upload it, then publish."
        ) from error
    except errors.DigestMismatch as error:
        if blobs.is_damaged(file.sha256):
            blobs.mark_damaged(file.sha256)
        raise errors.ContentMissing(
            f"What was stored of {file.path[:100]!r} is not what is listed. Upload it again."
        ) from error
