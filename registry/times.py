"""Timestamps: one form is written and accepted, and moments are compared, never texts. Pure.

The form is RFC 3339 in UTC with whole seconds, `2027-01-31T00:00:00Z`: ASCII digits, every field
padded, no offset, no fraction.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache

FIRST = "0001-01-01T00:00:00Z"
"""Before every commit."""
_FORM = "%Y-%m-%dT%H:%M:%SZ"
_CANONICAL = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def utc_now() -> str:
    """The current time in the canonical form."""
    return write(datetime.now(UTC))


def write(moment: datetime) -> str:
    """`moment`, which has a time zone, in the canonical form; fractions are cut off."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def parse(text: str) -> datetime:
    """A timestamp from outside. Raises `ValueError` for anything but the canonical form."""
    try:
        return instant(text if _CANONICAL.fullmatch(text) else "")
    except ValueError as error:
        advice = "Use UTC with whole seconds, such as 2027-01-31T00:00:00Z."
        raise ValueError(f"{text[:40]!r} is not a time. {advice}") from error


@lru_cache(maxsize=4096)
def instant(text: str) -> datetime:
    """A timestamp from the log, where older releases stored some with unpadded fields.

    Raises `ValueError` for what no release accepted.
    """
    return datetime.strptime(text, _FORM).replace(tzinfo=UTC)


def reached(text: str, now: str) -> bool:
    """Whether the moment `text` from the log is not after `now`. An unreadable one is reached:
    what nobody can date does not stay valid."""
    try:
        return instant(text) <= instant(now)
    except ValueError:
        return True
