"""The header of a safetensors file, read by hand with bounds. Nothing is executed or loaded.

Source: the safetensors format (8 bytes of length, little-endian; that many bytes of JSON; the
tensors' bytes, contiguous and in order). The checks are stricter than the reference reader's.
"""

import json
import struct
from dataclasses import dataclass
from math import prod
from typing import IO, Any

from adapters.errors import InvalidAdapter

MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 100_000
_MAX_DIMENSION = 2**40
FLOATS = {"F32": 4, "F16": 2, "BF16": 2}
"""Types of numbers that adapters may have, and their bytes."""
_BITS = {
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
    "F32": 32, "I32": 32, "U32": 32,
    "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I8": 8, "U8": 8, "BOOL": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
"""Bits of one element by type."""


class BadSafetensors(InvalidAdapter):
    """Bytes that are no safetensors file; the message is one sentence without a remedy."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor's type, shape and place in the file (absolute byte offsets)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(file: IO[bytes], size: int, *, limit: int = MAX_HEADER_BYTES) -> list[TensorInfo]:
    """The tensors of a safetensors file of `size` bytes, in the order of their bytes.

    Reads the header only, at most `limit` bytes of it. Raises `BadSafetensors`.
    """
    file.seek(0)
    start = file.read(8)
    if len(start) < 8:
        raise BadSafetensors(f"The file has {len(start)} bytes: too short to be safetensors.")
    (length,) = struct.unpack("<Q", start)
    if length > size - 8:
        _refuse_other_formats(start)
        raise BadSafetensors(
            f"The header claims {length} bytes, longer than its file ({size} bytes)."
        )
    if length > limit:
        raise BadSafetensors(f"The header has {length} bytes, above the limit of {limit}.")
    text = file.read(length)
    if len(text) < length:
        raise BadSafetensors("The file ends inside its header: a truncated upload.")
    return _lay_out(_parse(text), data_start=8 + length, size=size)


def _refuse_other_formats(start: bytes) -> None:
    """Say what a file really is whose first bytes make no sense as a length."""
    if start[:2] == b"PK":
        raise BadSafetensors("The file is a zip archive (perhaps a torch pickle), not safetensors.")
    if start[:1] == b"\x80" and start[1] in range(6):
        raise BadSafetensors("The file is a Python pickle, which can run code when it is loaded.")
    if start == b"version ":
        raise BadSafetensors(
            "The file is a Git LFS pointer, not the weights; run git lfs pull to fetch them."
        )
    if start[:2] == b"\x1f\x8b":
        raise BadSafetensors("The file is gzip-compressed, not safetensors.")


def _parse(text: bytes) -> dict[str, Any]:
    if text[:1] != b"{":
        raise BadSafetensors("The header is not a JSON object.")
    try:
        # The reference reader takes UTF-8 only, no halves of surrogate pairs, and no "-0".
        header = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse,
            parse_int=_natural,
        )
        json.dumps(header, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise BadSafetensors(f"The header is not valid JSON ({_short(error)}).") from error
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise BadSafetensors("The header's __metadata__ is not a map from text to text.")
    if len(header) > MAX_TENSORS:
        raise BadSafetensors(f"The header lists {len(header)} tensors, above {MAX_TENSORS}.")
    return dict(header)


def _lay_out(header: dict[str, Any], *, data_start: int, size: int) -> list[TensorInfo]:
    """Typed tensors that fill the file from `data_start` to `size` without hole or overlap."""
    tensors = sorted(
        (_tensor(name, entry, data_start) for name, entry in header.items()),
        key=lambda tensor: (tensor.begin, tensor.end),
    )
    position = data_start
    for tensor in tensors:
        if tensor.begin < position:
            raise BadSafetensors(f"Tensor {_quoted(tensor.name)} overlaps the one before it.")
        if tensor.begin > position:
            raise BadSafetensors(f"There are unexplained bytes before {_quoted(tensor.name)}.")
        if tensor.end > size:
            raise BadSafetensors(
                f"Tensor {_quoted(tensor.name)} ends at byte {tensor.end}, but the file has only "
                f"{size}: a truncated upload, or a false header."
            )
        position = tensor.end
    if position != size:
        raise BadSafetensors(f"{size - position} bytes follow the last tensor.")
    return tensors


def _tensor(name: str, entry: Any, data_start: int) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise BadSafetensors(f"Tensor {_quoted(name)} lacks a type, a shape or offsets.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise BadSafetensors(f"Tensor {_quoted(name)} has an unknown type {_quoted(str(dtype))}.")
    if not _naturals(shape) or len(shape) > 8 or not _naturals(offsets) or len(offsets) != 2:
        raise BadSafetensors(f"Tensor {_quoted(name)} has a malformed shape or offsets.")
    begin, end = offsets
    if begin > end or 8 * (end - begin) != prod(shape) * _BITS[dtype]:
        raise BadSafetensors(f"Tensor {_quoted(name)} has a shape that its bytes do not fill.")
    return TensorInfo(name, dtype, tuple(shape), data_start + begin, data_start + end)


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value <= _MAX_DIMENSION for value in values
    )


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _natural(digits: str) -> int:
    if digits == "-0" or len(digits) > 20:
        raise ValueError(f"{digits[:20]} is no size")
    return int(digits)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _quoted(name: str) -> str:
    return repr(name if len(name) <= 120 else name[:117] + "...")


def _short(error: Exception) -> str:
    return str(error)[:120] or type(error).__name__
