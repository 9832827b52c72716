"""How an adapter was made, as its `provenance.json` claims; not verified."""

from typing import Annotated

import msgspec
from annotated_types import MaxLen

from adapters.errors import InvalidAdapter
from adapters.fields import ShortText
from adapters.names import AdapterRef

MAX_BYTES = 1 << 20
_MAX_TEXT = 200
_MAX_REVIEWS = 100


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Where a version comes from. The `lineage` object of `provenance.json`."""

    parent: ShortText | None = None
    """The version whose training it continues, as `domain/adapter@number`."""
    data: ShortText | None = None
    """Digest, or name and revision, of the training data."""
    recipe: ShortText | None = None
    """Digest or name of the recipe."""
    code: ShortText | None = None
    """Revision of the training code."""
    reviews: Annotated[tuple[ShortText, ...], MaxLen(100)] = ()
    """Expert reviews whose judgements are in the training data, by their ids."""


class _Document(msgspec.Struct):
    lineage: Lineage = Lineage()


def parse_lineage(data: bytes) -> Lineage:
    """The lineage that a `provenance.json` states; other keys are its maker's business.

    Raises `InvalidAdapter` for what is no such document.
    """
    if len(data) > MAX_BYTES:
        raise InvalidAdapter("It is far larger than any provenance.")
    try:
        lineage = msgspec.json.decode(data, type=_Document).lineage
    except (ValueError, RecursionError) as error:
        raise InvalidAdapter(f"It cannot be read: {error}.") from error
    if len(lineage.reviews) > _MAX_REVIEWS:
        raise InvalidAdapter(f"It names more than {_MAX_REVIEWS} reviews.")
    named = (lineage.parent, lineage.data, lineage.recipe, lineage.code, *lineage.reviews)
    for text in named:
        if text is not None and (len(text) > _MAX_TEXT or not text.isprintable() or not text):
            raise InvalidAdapter(f"{text[:40]!r} is no digest, name or revision.")
    if lineage.parent is not None and AdapterRef.parse(lineage.parent).version is None:
        raise InvalidAdapter(f"{lineage.parent!r} has no version. Write DOMAIN/ADAPTER@VERSION.")
    return lineage
