"""Old names of commands, so that scripts that use them go on working."""

import sys
from collections.abc import Sequence

RENAMED: dict[tuple[str, ...], tuple[str, ...]] = {
    ("keys",): ("key",),
    ("suites",): ("suite",),
    ("tombstone",): ("delete",),
}
"""Old first words of a command, and what to type instead. `lorary alias split` is a hidden command
of its own, for its arguments changed, too."""


def current(arguments: Sequence[str]) -> list[str]:
    """The arguments with an old name replaced, and a note about it on standard error."""
    for old, new in RENAMED.items():
        if tuple(arguments[: len(old)]) == old:
            note = f"lorary: `lorary {' '.join(old)}` is now `lorary {' '.join(new)}`."
            print(note, file=sys.stderr)
            return [*new, *arguments[len(old) :]]
    return list(arguments)
