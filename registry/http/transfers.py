"""Transfers in and out: straight between client and bucket where the store allows it."""

import re
from collections.abc import Iterator
from typing import Any

from fastapi import Response
from fastapi.responses import RedirectResponse, StreamingResponse

from registry.errors import RangeNotSatisfiable
from registry.http.schemas import UploadBody
from registry.model.catalog import File
from registry.store import ObjectStore
from registry.store.blobs import Blobs, blob_key, part_key

_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")
_PIECE = 1 << 20


def plan_upload(store: ObjectStore, wanted: UploadBody, *, direct: bool) -> list[dict[str, Any]]:
    """One request for each part of a file that the store still lacks; see `SignedPut`.

    A file of one part goes to its place at once. A URL without a host is the registry's own.
    """
    whole = len(wanted.parts) == 1
    sizes = {part.sha256: part.size for part in wanted.parts}
    lacking = set(sizes) if whole else Blobs(store).missing_parts(sizes)
    puts = []
    for part in wanted.parts:
        if part.sha256 not in lacking:
            continue
        lacking.discard(part.sha256)
        key = blob_key(part.sha256) if whole else part_key(part.sha256)
        signed = store.signed_put(key, sha256=part.sha256, size=part.size) if direct else None
        own = f"/api/v1/{'blobs' if whole else 'parts'}/{part.sha256}"
        puts.append(
            {
                "sha256": part.sha256,
                "url": signed.url if signed else own,
                "headers": dict(signed.headers) if signed else {},
            }
        )
    return puts


def answer_file(
    store: ObjectStore,
    file: File,
    span: str | None,
    *,
    direct: bool,
    headers: dict[str, str] | None = None,
) -> Response:
    """A file's content, or the part of it that the `Range` header `span` names (RFC 9110).

    Whole answers break off if the stored bytes are damaged; whoever asks for a part checks.
    """
    headers = {"X-Lorary-Sha256": file.sha256, "Accept-Ranges": "bytes", **(headers or {})}
    url = store.signed_get(blob_key(file.sha256)) if direct else None
    if url is not None:
        return RedirectResponse(url, 307, headers)
    store.head(blob_key(file.sha256))  # a missing blob is an error now, not a broken answer later
    media = "application/octet-stream"
    found = _RANGE.fullmatch(span) if span else None
    whole = Blobs(store).stream(file.sha256, file.size)
    if found is None:
        headers["Content-Length"] = str(file.size)
        return StreamingResponse(whole, 200, headers, media)
    first, last = int(found[1]), min(int(found[2] or file.size), file.size - 1)
    if first > last:
        raise RangeNotSatisfiable(file.size)
    length = last - first + 1
    headers["Content-Length"] = str(length)
    headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"
    pieces = whole
    if length < file.size:
        pieces = _span(store, blob_key(file.sha256), first, length)
    return StreamingResponse(pieces, 206, headers, media)


def _span(store: ObjectStore, key: str, start: int, length: int) -> Iterator[bytes]:
    for piece in store.stream(key, start=start, chunk=min(_PIECE, length)):
        yield piece[:length]
        length -= len(piece)
        if length <= 0:
            return
