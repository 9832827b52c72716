"""The values of one tensor in a safetensors file, read in pieces of bounded memory."""

import hashlib
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adapters.safetensors_header import FLOATS, TensorInfo

Array = NDArray[np.float32]
PIECE = 8 << 20
"""Bytes of a tensor that are held together."""


def floats(data: bytes, dtype: str) -> Array:
    """Little-endian values of a type in `FLOATS` as float32, which holds each of them exactly."""
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)


class Examined(NamedTuple):
    """What one pass over a tensor's bytes finds."""

    largest: float
    """The largest magnitude; infinite or NaN if any value is."""
    sha256: str
    """Of its bytes."""


def examine(file: IO[bytes], info: TensorInfo) -> Examined:
    """The largest magnitude in a tensor of a type in `FLOATS`, and the digest of its bytes."""
    # Without its sign bit, a float's bits order as its magnitude does; infinity and NaN come last.
    width = FLOATS[info.dtype]
    magnitude = (1 << (8 * width - 1)) - 1
    top, digest = 0, hashlib.sha256()
    for piece in pieces(file, info.begin, info.end):
        bits = np.frombuffer(piece, f"<u{width}") & magnitude
        top = max(top, int(bits.max(initial=0)))
        digest.update(piece)
    largest = float(floats(top.to_bytes(width, "little"), info.dtype)[0])
    return Examined(largest, digest.hexdigest())


def pieces(file: IO[bytes], begin: int, end: int) -> Iterator[bytes]:
    """The bytes from `begin` to `end`, at most `PIECE` at a time."""
    file.seek(begin)
    while begin < end:
        piece = file.read(min(PIECE, end - begin))
        if not piece:
            return
        begin += len(piece)
        yield piece


def rows(file: IO[bytes], info: TensorInfo) -> Iterator[Array]:
    """A tensor of shape (rows, columns) in pieces of whole rows."""
    height, width, size = _measures(info)
    step = max(1, PIECE // max(width * size, 1))
    for start in range(0, height, step):
        count = min(step, height - start)
        file.seek(info.begin + start * width * size)
        yield floats(file.read(count * width * size), info.dtype).reshape(count, width)


def columns(file: IO[bytes], info: TensorInfo) -> Iterator[Array]:
    """A tensor of shape (rows, columns) in pieces of whole columns."""
    height, width, size = _measures(info)
    step = max(1, PIECE // max(height * size, 1))
    for start in range(0, width, step):
        count = min(step, width - start)
        piece = np.empty((height, count), np.float32)
        for row in range(height):
            file.seek(info.begin + (row * width + start) * size)
            piece[row] = floats(file.read(count * size), info.dtype)
        yield piece


def _measures(info: TensorInfo) -> tuple[int, int, int]:
    """Rows, columns, and bytes of one value."""
    height, width = info.shape
    return height, width, FLOATS[info.dtype]
