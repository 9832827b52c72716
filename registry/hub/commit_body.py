"""The body of a Hub commit, read in flat memory however large the files in it are.

The body is NDJSON: a header, then one operation a line; a small file's content stands in its line
as base64. The body is spooled to disk and mapped, and contents are decoded piece by piece.
"""

import base64
import binascii
import hashlib
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from registry.errors import BadRequest, NotOffered

MAX_LINE = 64 << 10
"""Bytes of a line without its content."""
_CONTENT = re.compile(rb'"content"\s*:\s*"')
_PIECE = 3 << 20  # a multiple of 3 bytes is 4/3 of it in base64, without padding


@dataclass(frozen=True, slots=True)
class Header:
    """What the commit builds on, and its message."""

    parent: str | None
    summary: str
    description: str


@dataclass(frozen=True, slots=True)
class Inline:
    """A file whose content came in the body and now lies at `local`."""

    path: str
    local: Path
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A file whose content was uploaded before."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Deleted:
    """A file to leave out."""

    path: str


Operation = Header | Inline | Uploaded | Deleted


def operations(body: Path, folder: Path) -> Iterator[Operation]:
    """The operations in `body`; contents are written to `folder`. Raises `BadRequest`."""
    if body.stat().st_size == 0:
        raise BadRequest("The commit is empty. Send its header and its operations.")
    with body.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start, number = 0, 0
        while start < len(data):
            end = data.find(b"\n", start)
            end = len(data) if end < 0 else end
            if end > start:
                yield _operation(data, start, end, folder / f"inline-{number}")
            start, number = end + 1, number + 1


def _operation(data: mmap.mmap, start: int, end: int, local: Path) -> Operation:
    begins, ends = _content(data, start, end)
    if (begins - start) + (end - ends) > MAX_LINE:
        raise BadRequest("A line of the commit is too long. Update huggingface_hub.")
    try:
        line: dict[str, Any] = msgspec.json.decode(
            data[start:begins] + data[ends:end], type=dict[str, Any]
        )
        key, value = line["key"], line["value"]
        match key:
            case "header":
                summary, description = value.get("summary"), value.get("description")
                return Header(value.get("parentCommit"), str(summary or ""), str(description or ""))
            case "file":
                if value.get("encoding", "base64") != "base64":
                    raise BadRequest("Contents are taken as base64 only. Update huggingface_hub.")
                if value["content"] != "":  # what was found was taken out
                    raise BadRequest("A file's content is no text. Send it as base64.")
                size, sha256 = _decode(data, begins, ends, local)
                return Inline(str(value["path"]), local, size, sha256)
            case "lfsFile":
                return Uploaded(str(value["path"]), str(value["oid"]))
            case "deletedFile":
                return Deleted(str(value["path"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadRequest(f"A line of the commit cannot be read: {error}.") from error
    raise NotOffered(f"{str(key)[:40]!r} is not offered by Lorary: an adapter has files only.")


def _content(data: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    """Where the content's base64 begins and ends; an empty stretch if the line has none."""
    found = _CONTENT.search(data, start, end)
    if found is None:
        return end, end
    closing = data.find(b'"', found.end(), end)
    if closing < 0:
        raise BadRequest("A line of the commit is cut off. Send it again.")
    return found.end(), closing


def _decode(data: mmap.mmap, begins: int, ends: int, local: Path) -> tuple[int, str]:
    hashing, size, step = hashlib.sha256(), 0, _PIECE // 3 * 4
    with local.open("wb") as out:
        for at in range(begins, ends, step):
            try:
                piece = base64.b64decode(data[at : min(at + step, ends)], validate=True)
            except binascii.Error as error:
                raise BadRequest(f"A file's content is no base64: {error}.") from error
            hashing.update(piece)
            out.write(piece)
            size += len(piece)
    return size, hashing.hexdigest()
