"""Who may publish by the Hub's protocol, and to what."""

from adapters.names import AdapterRef
from registry import errors
from registry.http.access import Caller
from registry.hub.revisions import MAIN


def require_publisher(
    caller: Caller, domain: str, adapter: str, revision: str = MAIN
) -> AdapterRef:
    """The adapter, if the caller may publish it and `revision` can be committed to."""
    ref = AdapterRef.parse(f"{domain}/{adapter}")
    caller.require("publish", ref.domain)
    if revision != MAIN:
        raise errors.NotOffered(
            f"Committing to {revision[:80]!r} is not offered by Lorary, only to main: a commit is "
            "the adapter's next version. Leave out the revision; create_tag names the version."
        )
    return ref
