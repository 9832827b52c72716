"""A hook of MkDocs: links to files beside docs/ lead to the repository.

In the repository such a link is relative, so that it works in a checkout and `make check` can
follow it. The site has no such file.
"""

import posixpath
import re
from typing import Any

LINK = re.compile(r"\]\((?P<path>\.\./[^)\s#]+)(?P<rest>#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """The page's text with the links that leave docs/ made absolute."""
    return outward(markdown, page.file.src_uri, config["repo_url"])


def outward(markdown: str, page: str, repository: str) -> str:
    """`markdown` with links out of docs/ led to `repository`.

    page: its path below docs/.
    """

    def one(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), found["path"]))
        if not path.startswith("../"):
            return found[0]
        return f"]({repository}/blob/main/{path.removeprefix('../')}{found['rest'] or ''})"

    return LINK.sub(one, markdown)
