"""What was seen of a log before, kept where whoever can write the store cannot.

A chain of hashes shows a change only to somebody who knows a later link. A witness is a text file
with a line for each look: a commit's number and the SHA-256 of its bytes.
"""

import os
import re
from pathlib import Path

from registry.errors import BadRequest

_LINE = re.compile(r"(\d{1,20}) ([0-9a-f]{64})")


def read(path: Path) -> dict[int, str]:
    """Digests by the commit's number; nothing if there is no file. Raises `BadRequest`."""
    if not path.exists():
        return {}
    seen: dict[int, str] = {}
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        found = _LINE.fullmatch(line)
        if found is None:
            raise BadRequest(f"Line {number} of {path} is not NUMBER SHA256. Restore the file.")
        if seen.setdefault(int(found[1]), found[2]) != found[2]:
            raise BadRequest(
                f"Line {number} of {path} contradicts an earlier one. Restore the file."
            )
    return seen


def note(path: Path, sequence: int, head: str) -> None:
    """Append what was seen, durably."""
    with path.open("a") as file:
        file.write(f"{sequence} {head}\n")
        file.flush()
        os.fsync(file.fileno())
