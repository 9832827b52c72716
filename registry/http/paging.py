"""Pages of listings: at most `limit` entries, those that follow `after` in order.

To read a whole listing, repeat the request with `after` set to the name of the last entry until a
page is not full.
"""

import heapq
from collections.abc import Iterable
from typing import Annotated

from fastapi import Query

LIMIT = 1000
"""Entries of a page, at the most and by default."""
After = Annotated[str, Query(max_length=400, description="Only what follows this name.")]
Limit = Annotated[int, Query(ge=1, le=LIMIT, description="Entries of the page, at the most.")]


def page_of(names: Iterable[str], after: str, limit: int) -> list[str]:
    """The first `limit` names after `after`, in order: O(n log limit), nothing is copied."""
    return heapq.nsmallest(limit, (name for name in names if name > after))
