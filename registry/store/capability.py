"""Whether a store keeps the promises that the log rests on (see `registry.store.base`).

Some servers that speak S3's protocol accept `If-None-Match: *` and ignore it. Two registries then
overwrite each other's commits, and nothing shows it. So before anything is written, the promises
are tried on objects of the check's own, which it removes again.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from registry.errors import (
    AlreadyExists,
    ObjectNotFound,
    OutcomeUnknown,
    StoreError,
    StoreUnavailable,
    StoreUnfit,
)
from registry.store.base import ObjectStore

PROBES = "probe/"
"""Prefix of the objects that the check writes; nothing else lies there."""
WRITERS = 3
"""Concurrent writers of one key. Some servers let the losers wait for seconds if there are more."""
ROUNDS = 3
"""Races. A server that looks first and writes then almost certainly loses one of them."""
STALE_SECONDS = 3600.0
"""Age from which objects of a check that was killed are removed by the next one."""


def check(store: ObjectStore) -> None:
    """Try conditional writes, a race for one key, overwriting, listing and deleting.

    Takes about 30 small requests. Raises `StoreUnfit` with the promise that is not kept, or
    `StoreUnavailable` if the store cannot be written at all. Leaves no object behind.
    """
    folder = f"{PROBES}{secrets.token_hex(8)}/"
    first, *others = keys = [f"{folder}{number}" for number in range(1 + ROUNDS)]
    try:
        _check_create(store, first)
        for key in others:
            _check_race(store, key)
        _check_overwrite(store, first)
        _check_listing_and_deletion(store, folder, keys)
    except StoreUnfit:
        raise
    except StoreUnavailable as error:
        raise StoreUnavailable(
            f"{error.message} To serve a registry that is only read, set LORARY_READ_ONLY=true."
        ) from error
    finally:
        with contextlib.suppress(StoreError):
            _clean(store, keys)


def _check_create(store: ObjectStore, key: str) -> None:
    """Put-if-absent, one writer after the other."""
    _create(store, key, b"first")
    if store.get(key) != b"first":
        raise _unfit(store, "an object does not read as it was just written")
    try:
        store.put(key, b"second", "create")
    except AlreadyExists:
        if store.get(key) == b"first":
            return
        raise _unfit(store, "a write that was refused changed the object") from None
    raise _unfit(
        store, "it ignores If-None-Match: a write that must fail because the key exists succeeded"
    )


def _create(store: ObjectStore, key: str, data: bytes) -> None:
    """Put a fresh key; a lost reply is settled by reading, as the log does."""
    try:
        store.put(key, data, "create")
    except (AlreadyExists, OutcomeUnknown):
        if store.get(key) != data:
            raise


def _check_race(store: ObjectStore, key: str) -> None:
    """Put-if-absent, several writers at once: one wins, and what it wrote is there."""
    together = threading.Barrier(WRITERS)

    def attempt(number: int) -> str:
        together.wait()
        try:
            store.put(key, str(number).encode(), "create")
        except AlreadyExists:
            return "lost"
        except OutcomeUnknown:
            return "unknown"
        return "won"

    with ThreadPoolExecutor(WRITERS) as pool:
        outcomes = list(pool.map(attempt, range(WRITERS)))
    found = int(store.get(key))
    if outcomes.count("won") > 1:
        raise _unfit(store, "several writers who created one key at once all got success")
    if outcomes[found] == "lost" or ("won" in outcomes and outcomes[found] != "won"):
        raise _unfit(
            store, "of several writers who created one key at once, the wrong one is there"
        )


def _check_overwrite(store: ObjectStore, key: str) -> None:
    store.put(key, b"third", "overwrite")
    if store.get(key) != b"third":
        raise _unfit(store, "an overwritten object still reads as before")


def _check_listing_and_deletion(store: ObjectStore, folder: str, keys: Sequence[str]) -> None:
    if {info.key for info in store.list(folder)} != set(keys):
        raise _unfit(store, "a listing lacks objects that were just written")
    for key in keys:
        store.delete(key)
    if any(store.list(folder)):
        raise _unfit(store, "a listing still has objects that were just deleted")
    try:
        store.get(keys[0])
    except ObjectNotFound:
        return
    raise _unfit(store, "a deleted object can still be read")


def _clean(store: ObjectStore, keys: Sequence[str]) -> None:
    """Remove this check's objects, and those of checks that were killed long ago."""
    for key in keys:
        store.delete(key)
    oldest = time.time() - STALE_SECONDS
    for info in list(store.list(PROBES)):
        if info.modified < oldest:
            with contextlib.suppress(ValueError):  # no key of ours, such as `.DS_Store`
                store.delete(info.key)


def _unfit(store: ObjectStore, fault: str) -> StoreUnfit:
    return StoreUnfit(
        f"The store {store.url} cannot hold a registry: {fault}. Registries would lose commits "
        "that they acknowledged. Use a server that honours conditional writes (If-None-Match: *), "
        "or a local directory; nothing of a registry was written."
    )
