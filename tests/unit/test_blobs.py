"""What is read of a blob is what was stored, or visibly less."""

import hashlib

import pytest

from registry.errors import DigestMismatch
from registry.store import LocalStore
from registry.store.blobs import Blobs, blob_key

PIECE = 1 << 20


@pytest.mark.parametrize("length", [1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE // 2])
def test_whoever_gets_all_bytes_of_a_blob_gets_the_right_ones(
    local_store: LocalStore, length: int
) -> None:
    """HTTP clients take an answer for whole that has as many bytes as were announced."""
    whole = (bytes(range(251)) * (length // 251 + 1))[:length]
    blobs, digest = Blobs(local_store), hashlib.sha256(whole).hexdigest()
    assert blobs.put_bytes(whole) == digest
    assert b"".join(blobs.stream(digest, length)) == whole
    for place in {0, length // 2, length - 1}:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        local_store.put(blob_key(digest), bytes(damaged), "overwrite")
        got = list[int]()
        with pytest.raises(DigestMismatch):
            got.extend(map(len, blobs.stream(digest, length)))
        assert sum(got) < length


def test_an_empty_blob_is_verified(local_store: LocalStore) -> None:
    blobs, digest = Blobs(local_store), hashlib.sha256(b"x").hexdigest()
    assert list(blobs.stream(blobs.put_bytes(b""), 0)) == []
    local_store.put(blob_key(digest), b"", "overwrite")
    with pytest.raises(DigestMismatch):
        list(blobs.stream(digest))
