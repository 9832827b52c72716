"""Finding what a person named by its id, the start of the id, or its name."""

import difflib
from collections.abc import Sequence
from typing import Any

from registry.client import RegistryClient
from registry.errors import BadRequest, Forbidden, NotFound


def chosen(what: str, given: str, listed: Sequence[dict[str, Any]], name: str, listing: str) -> str:
    """The id of the one entry that `given` means; an entry's field `name` holds its name.

    what: the kind of entry, such as "key". listing: the command that lists them. Raises `NotFound`
    if there is none and `BadRequest` if there is more than one.
    """
    ids = [entry["id"] for entry in listed]
    if given in ids:
        return given
    named = [entry["id"] for entry in listed if entry[name] == given]
    found = named or [one for one in ids if len(given) >= 4 and one.startswith(given)]
    if len(found) == 1:
        return str(found[0])
    if found:
        raise BadRequest(
            f"{len(found)} {what}s are called {given[:60]!r}. Use an id: {', '.join(found[:5])}"
        )
    near = difflib.get_close_matches(given, [*ids, *(str(entry[name]) for entry in listed)], n=3)
    hint = f"Did you mean {', '.join(near)}?" if near else f"List them: {listing}"
    raise NotFound(f"There is no {what} {given[:60]!r}. {hint}")


def key_names(registry: RegistryClient) -> dict[str, str]:
    """Names of keys by id, for a caller who may list them; else nothing."""
    try:
        listed = registry.keys()
    except Forbidden:
        return {}
    return {key["id"]: key["name"] for key in listed}
