"""The header is read with bounds, whatever the bytes."""

import io
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from adapters.safetensors_header import BadSafetensors, TensorInfo, read_header

shapes = st.lists(st.integers(0, 5), min_size=0, max_size=3)
types = st.sampled_from([np.float32, np.float16, np.int64])


def read(data: bytes) -> list[TensorInfo]:
    return read_header(io.BytesIO(data), len(data))


@given(st.dictionaries(st.text(min_size=1, max_size=20), st.tuples(shapes, types), max_size=5))
def test_what_the_reference_library_writes_is_read_alike(
    described: dict[str, tuple[list[int], type]],
) -> None:
    tensors: dict[str, np.ndarray] = {
        name: np.ones(shape, kind) for name, (shape, kind) in described.items()
        if name != "__metadata__"
    }  # fmt: skip
    data = save(tensors)
    found = {info.name: info for info in read(data)}
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        assert found[name].shape == array.shape
        assert data[found[name].begin : found[name].end] == array.tobytes()


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_with_the_one_error(data: bytes) -> None:
    with pytest.raises(BadSafetensors):
        read(data)


@given(st.data())
def test_a_damaged_file_is_read_consistently_or_refused(data: st.DataObject) -> None:
    whole = bytearray(save({"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float16)}))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        infos = read(bytes(whole))
    except BadSafetensors:
        return
    assert all(info.begin <= info.end <= len(whole) for info in infos)


def test_a_header_is_never_read_beyond_its_limit() -> None:
    class Counting(io.BytesIO):
        asked = 0

        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert size >= 0
            self.asked += size
            return super().read(size)

    header = json.dumps({"a" * 10_000: 1}).encode()
    file = Counting(struct.pack("<Q", len(header)) + header)
    with pytest.raises(BadSafetensors, match="above the limit"):
        read_header(file, len(file.getvalue()), limit=1000)
    assert file.asked == 8
