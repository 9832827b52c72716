"""Which version a repository id and a revision name. Pure."""

import re

from adapters.errors import InvalidName
from adapters.names import AdapterRef
from registry import errors
from registry.model.catalog import Adapter, Catalog, Version

MAIN = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def commit_id(version: Version) -> str:
    """The version as the Hub's clients know it."""
    return version.digest[:40]


def find(catalog: Catalog, domain: str, adapter: str, revision: str) -> Version:
    """The version that `revision` names; raises `UnknownAdapter` and its kin, or `VersionGone`.

    A commit id names the newest version with those bytes.
    """
    found = catalog.adapter(AdapterRef.parse(f"{domain}/{adapter}"))
    if _COMMIT.fullmatch(revision):
        for version in reversed(found.versions):
            if commit_id(version) == revision:
                return catalog.resolve(version.ref)
        raise errors.UnknownAlias(f"{domain}/{adapter}", revision, sorted(found.aliases))
    try:
        ref = AdapterRef.parse(f"{domain}/{adapter}@{selector(revision)}")
    except InvalidName as error:
        known = sorted(found.aliases)
        raise errors.UnknownAlias(f"{domain}/{adapter}", revision[:80], known) from error
    return catalog.resolve(ref)


def selector(revision: str) -> str:
    """A revision in Lorary's words: `main` is `production`, and `@7` is `7`."""
    text = revision.removeprefix("@")
    return "production" if text == MAIN else text


def newest(adapter: Adapter | None) -> Version | None:
    """The last version whose bytes are kept, on which a commit builds."""
    versions = adapter.versions if adapter else ()
    return next((v for v in reversed(versions) if v.tombstone is None), None)
