"""The keys that a store accepts: the same for every kind of store."""

import re

_PART = "[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}"
_KEY = re.compile(f"{_PART}(?:/{_PART})*")


def check_key(key: str) -> str:
    """`key` itself if it is well formed; else `ValueError`, for only Lorary makes keys."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not a store key")
    return key
