"""What an import that broke off leaves in a store, and how the next one gets rid of it.

An import writes its marker first, the first commit last, and then removes the marker. So a store
with a marker and without a first commit holds no registry, only remains.
"""

import re

from registry.errors import Conflict, ObjectNotFound
from registry.log.commits import commit_key
from registry.store.base import ObjectStore

MARKER = "import/unfinished"
_COMMIT = re.compile(r"log/[0-9]{20}\.json")
"""Other objects are not the registry's, and stay."""


def mark(store: ObjectStore) -> None:
    """Say that what follows is an import."""
    store.put(MARKER, b"", "overwrite")


def clear(store: ObjectStore) -> None:
    """Remove the commits of an import that broke off, if there are any.

    Raises `Conflict` for commits without a first one that no import left: they may be all that is
    left of a registry. Not for a store into which another process imports just now.
    """
    marked = _exists(store, MARKER)
    if not _exists(store, commit_key(1)):
        found = [info.key for info in store.list("log/") if _COMMIT.fullmatch(info.key)]
        if found and not marked:
            raise without_beginning(store, len(found))
        for key in found:
            store.delete(key)
    if marked:
        store.delete(MARKER)


def without_beginning(store: ObjectStore, commits: int) -> Conflict:
    """The refusal of a store whose log has no first commit."""
    return Conflict(
        f"{store.url} holds {commits} commit(s) but not the first: a log that lost its beginning, "
        "or what an import by an earlier Lorary left. Restore log/ from a backup; if there never "
        "was a registry here, remove log/ and try again."
    )


def _exists(store: ObjectStore, key: str) -> bool:
    try:
        store.head(key)
    except ObjectNotFound:
        return False
    return True
