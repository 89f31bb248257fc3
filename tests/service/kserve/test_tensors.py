"""The codec of the open inference protocol: what is written is read again, and what is broken is refused with a reason."""

import gzip
import math
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from service.kserve import tensors
from service.kserve.tensors import TensorError, TooLargeError

FLOATS = arrays(np.float32, array_shapes(max_dims=4, max_side=4), elements=st.floats(width=32, allow_nan=False))
ELEMENTS = st.lists(st.binary(max_size=40), min_size=1, max_size=6)


@given(FLOATS)
def test_floats_come_back_as_they_were(values: NDArray[np.float32]) -> None:
    part = tensors.floats_to_binary(values)
    assert part == values.astype("<f4").tobytes()
    for data in (memoryview(part), values.flatten().tolist(), values.tolist()):
        assert np.array_equal(tensors.read_floats("x", values.shape, data), values)


@given(ELEMENTS)
def test_bytes_come_back_as_they_were_and_as_tritonclient_writes_them(elements: list[bytes]) -> None:
    part = tensors.bytes_to_binary(elements)
    assert part == serialize_byte_tensor(np.array(elements, dtype=object)).item()
    assert list(deserialize_bytes_tensor(part)) == elements
    assert tensors.read_bytes("x", [len(elements)], memoryview(part)) == elements


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_texts_of_json_are_utf8(texts: list[str]) -> None:
    assert tensors.read_bytes("x", [len(texts), 1], [[each] for each in texts]) == [each.encode() for each in texts]


@given(st.binary(max_size=60), st.integers(0, 5))
def test_random_bytes_are_read_or_refused(data: bytes, count: int) -> None:
    try:
        elements = tensors.read_bytes("x", [count], memoryview(data))
    except TensorError:
        return
    assert tensors.bytes_to_binary(elements) == data


@pytest.mark.parametrize(
    ("shape", "part", "reason"),
    [
        ([2], struct.pack("<I", 3) + b"abc", r"shape \[2\] has 2 elements, received 1"),
        ([1], struct.pack("<I", 3) + b"ab", "element 0 should begin with its length"),
        ([1], struct.pack("<I", 2**32 - 1) + b"ab", "the 6 bytes left begin with ffffffff"),
        ([1], b"\x01\x00", "the 2 bytes left begin with 0100"),
        ([1], struct.pack("<I", 0) * 2, "4 bytes follow the 1 elements"),
        ([1], b"", "received 0"),
    ],
)
def test_a_broken_part_of_bytes_is_refused(shape: list[int], part: bytes, reason: str) -> None:
    with pytest.raises(TensorError, match=f"x: .*{reason}"):
        tensors.read_bytes("x", shape, memoryview(part))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ([1.0], r"shape \[2, 1\] has 2 elements, received 1"),
        ([], "received 0"),
        (["1", "2"], "data must be numbers, received"),
        ([True, False], "data must be numbers, received"),
        ([None, 1], "data must be numbers, received"),
        ([[1], [2, 3]], "flat or evenly nested"),
        ([{}, {}], "data must be numbers"),
        ([2**80, 1], "data must be numbers"),
        ([eval("[" * 100 + "1" + "]" * 100)], "data must be"),
    ],
)
def test_json_that_is_no_tensor_of_floats_is_refused(data: list[Any], reason: str) -> None:
    with pytest.raises(TensorError, match=f"x: .*{reason}"):
        tensors.read_floats("x", [2, 1], data)


def test_a_number_beyond_float32_becomes_infinite() -> None:
    assert math.isinf(tensors.read_floats("x", [1], [1e300])[0])


@pytest.mark.parametrize("data", [[1], [None], [["a"], [[2]]], [{"b64": ""}]], ids=str)
def test_json_that_is_no_text_is_refused(data: list[Any]) -> None:
    with pytest.raises(TensorError, match="x: data must be texts, element"):
        tensors.read_bytes("x", [1], data)


@pytest.mark.parametrize("size", [0, 7, 9, 12])
def test_a_part_of_floats_has_four_bytes_an_element(size: int) -> None:
    with pytest.raises(TensorError, match=rf"x: binary_data_size is {size}, but FP32 of shape \[1, 2\] has 8 bytes"):
        tensors.read_floats("x", [1, 2], memoryview(bytes(size)))


def test_binary_parts_are_shared_out_in_order() -> None:
    rest = memoryview(b"aabbb")
    parts = list(tensors.share_out(rest, [("x", 2), ("in json", None), ("empty", 0), ("y", 3)]))
    assert [None if part is None else bytes(part) for part in parts] == [b"aa", None, b"", b"bbb"]


@pytest.mark.parametrize("sizes", [[("x", 4)], [("x", 6)], [("x", None)], [("x", 5), ("y", 2**60)], []])
def test_parts_that_are_not_there_are_refused(sizes: list[tuple[str, int | None]]) -> None:
    with pytest.raises(TensorError, match="5 bytes follow the JSON, but binary_data_size announces"):
        list(tensors.share_out(memoryview(b"aabbb"), sizes))


def test_a_body_is_split_behind_its_json() -> None:
    head, rest = tensors.split(b"{}abc", "2")
    assert (head, bytes(rest)) == (b"{}", b"abc")
    head, rest = tensors.split(b"{}", None)
    assert (head, bytes(rest)) == (b"{}", b"")


@pytest.mark.parametrize("length", ["0", "-1", "6", "x", "", "2.0", "+2", "²", "9" * 18, "9" * 5_000])
def test_a_length_of_the_json_that_cannot_be_is_refused(length: str) -> None:
    with pytest.raises(
        TensorError, match=r"Inference-Header-Content-Length: .* 1 to the 5 bytes of the body, received"
    ):
        tensors.split(b"{}abc", length)


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]))
def test_a_packed_body_comes_back_as_it_was(body: bytes, encoding: Any) -> None:
    packed = tensors.deflate(body, encoding)
    assert {"gzip": gzip.decompress, "deflate": zlib.decompress}[encoding](packed) == body
    assert tensors.inflate(packed, encoding, max_bytes=len(body)) == body
    if body:
        with pytest.raises(TooLargeError, match=f"more than {len(body) - 1} bytes once it is unpacked"):
            tensors.inflate(packed, encoding, max_bytes=len(body) - 1)
        with pytest.raises(TensorError, match=f"ends too early, after {len(packed) - 1} bytes"):
            tensors.inflate(packed[:-1], encoding, max_bytes=1000)


def test_a_bomb_takes_no_more_memory_than_is_allowed() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError):
            tensors.inflate(bomb, "gzip", max_bytes=1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["", "identity"])
def test_a_body_that_is_not_packed_stays_as_it_is(encoding: str) -> None:
    assert tensors.inflate(b"abc", encoding, max_bytes=1) == b"abc"


@pytest.mark.parametrize(
    ("body", "encoding", "reason"),
    [
        (b"abc", "gzip", "the body is not gzip"),
        (gzip.compress(b"abc", mtime=0), "deflate", "the body is not deflate"),
        (b"", "gzip", "ends too early"),
        (gzip.compress(b"abc", mtime=0) + b"xy", "gzip", "2 bytes follow the end"),
        (gzip.compress(b"abc", mtime=0)[:-8] + bytes(8), "gzip", "the body is not gzip"),
        (b"abc", "br", "Content-Encoding: 'br' is not known; gzip and deflate are"),
        (b"abc", "gzip, gzip", "is not known"),
    ],
)
def test_a_broken_packing_is_refused(body: bytes, encoding: str, reason: str) -> None:
    with pytest.raises(TensorError, match=reason):
        tensors.inflate(body, encoding, max_bytes=1000)
