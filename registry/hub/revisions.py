"""Which version a repository id and a revision name. Pure."""

import re

from adapters.errors import InvalidName
from adapters.names import DEFAULT_ALIAS, AdapterRef
from registry import errors
from registry.model.catalog import Adapter, Catalog, File, Version

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
    """A revision in Lorary's words: `main` and git's `HEAD` are `production`, and `@7` is `7`."""
    text = revision.removeprefix("@")
    return DEFAULT_ALIAS if text in (MAIN, "HEAD") else text


def newest(adapter: Adapter | None) -> Version | None:
    """The last version whose bytes are kept, on which a commit builds."""
    versions = adapter.versions if adapter else ()
    return next((v for v in reversed(versions) if v.tombstone is None), None)


def changed_in(adapter: Adapter, version: Version, file: File) -> Version:
    """The version that gave `file` the content that it has in `version`."""
    found = version
    for earlier in reversed(adapter.versions[: version.number - 1]):
        if file not in earlier.files:
            break
        found = earlier
    return found
