"""What the Hub's clients can ask for and Lorary does not offer, in words that they show. Pure.

A client shows the message of a 400 as it is. It shows "Repository Not Found" for a 404, which is
right only where a repository is asked for.
"""

import re

from adapters.errors import LoraryError
from registry.errors import NotFound, NotOffered

_REPO = r"/api/(?:models|datasets|spaces|kernels)/[^/]+(?:/[^/]+)?"
_ELSEWHERE = re.compile(r"(?:/api)?/(datasets|spaces|kernels)/.+", re.DOTALL)
_SHORT = re.compile(
    r"(?:/api/models)?/([^/]+)(?:/(?:revision|tree|resolve|raw|refs)/.*)?", re.DOTALL
)
_TABLE = (
    (
        "DELETE", rf"{_REPO}/tag/.*", "Deleting a tag is",
        "An alias can name another version: lorary alias set DOMAIN/ADAPTER@NUMBER ALIAS.",
    ),
    (
        "", rf"{_REPO}/branch/.*", "A branch is",
        "Commit to main: the commit is the adapter's next version. A tag names it: create_tag.",
    ),
    (
        "", rf"{_REPO}/discussions.*|/api/.+/discussions/.*", "A discussion or a pull request is",
        "Lorary has no pull requests. Commit to main: experts review the version.",
    ),
    (
        "", rf"{_REPO}/super-squash/.*", "Squashing the history is",
        "Versions are immutable. Old ones are deleted with lorary delete.",
    ),
    (
        "", r"/api/repos/delete", "Deleting an adapter is",
        "Revoke a version (lorary revoke) or delete its files (lorary delete).",
    ),
    (
        "", r"/api/repos/move", "Renaming an adapter is",
        "Publish it under the other name: lorary pull, then lorary push.",
    ),
    (
        "", rf"{_REPO}/duplicate", "Duplicating an adapter is",
        "Publish it under the other name: lorary pull, then lorary push.",
    ),
    (
        "", rf"{_REPO}/(?:settings|user-access-request.*)|/api/settings/repositories.*",
        "Changing who may see an adapter is",
        "Keys have roles for domains: lorary key issue NAME --grant ROLE:DOMAIN.",
    ),
    ("", rf"{_REPO}/like(?:rs)?|/api/users/.*/likes", "Liking an adapter is", ""),
    (
        "", rf"{_REPO}/lfs-files.*", "Listing or deleting LFS files is",
        "Delete a version's files with lorary delete.",
    ),
)  # fmt: skip
_RULES = tuple(
    (method, re.compile(path, re.DOTALL), what, instead) for method, path, what, instead in _TABLE
)


def not_offered(method: str, path: str) -> LoraryError:
    """The answer to a request of a Hub client that no route takes."""
    if method in ("GET", "HEAD"):
        if found := _ELSEWHERE.fullmatch(path):
            kind = found[1].removesuffix("s")
            return NotFound(
                f"Lorary holds adapters only, no {kind}. Use the repository type model."
            )
        if (found := _SHORT.fullmatch(path)) and found[1] != "api":
            return NotFound(f"{found[1][:80]!r} is not an adapter. Write DOMAIN/ADAPTER.")
    for only, pattern, what, instead in _RULES:
        if only in ("", method) and pattern.fullmatch(path):
            return NotOffered(f"{what} not offered by Lorary. {instead}".rstrip())
    return NotOffered(
        f"{method} {path[:200]} is not offered by Lorary, which answers what publishes and fetches "
        "adapters. docs/reference/hugging-face-calls.md lists it."
    )
