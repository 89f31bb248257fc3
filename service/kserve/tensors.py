"""Tensors of the open inference protocol (KServe V2, REST): bytes on the wire, arrays inside.

A body is JSON, or JSON followed by the binary parts of its tensors, in their order. FP32 is little endian, row by row; an
element of BYTES is its length, 4 bytes little endian, and then so many bytes.
"""

import math
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

Datatype = Literal["FP32", "BYTES"]
Encoding = Literal["gzip", "deflate"]

Floats = NDArray[np.float32]

LONGEST_ECHO = 60
"""Characters of a received value that an error repeats."""

_LENGTH = struct.Struct("<I")
_FP32 = np.dtype("<f4")
_WINDOW: dict[str, int] = {"gzip": zlib.MAX_WBITS + 16, "deflate": zlib.MAX_WBITS}


class TensorError(ValueError):
    """What was sent does not follow the protocol; the message says what is wrong, what was received, what is allowed."""


class TooLargeError(TensorError):
    """What was sent is larger than allowed."""


STATUSES: dict[type[Exception], HTTPStatus] = {
    TensorError: HTTPStatus.UNPROCESSABLE_ENTITY,
    TooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
}
"""How these errors are answered."""


def inflate(body: bytes, encoding: str, *, max_bytes: int) -> bytes:
    """Undo the compression of a body, and stop as soon as it is too large.

    Args:
        body: as received.
        encoding: its `Content-Encoding`, "gzip" or "deflate" (which means zlib's format); "" and "identity" leave it as it is.
        max_bytes: most that may come out.

    Raises:
        TensorError: another encoding, or the body is broken.
        TooLargeError: more would come out.
    """
    if encoding in {"", "identity"}:
        return body
    if encoding not in _WINDOW:
        raise TensorError(f"Content-Encoding: {_shown(encoding)} is not known; gzip and deflate are")
    unpacker = zlib.decompressobj(_WINDOW[encoding])
    try:
        unpacked = unpacker.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise TensorError(f"the body is not {encoding}, as Content-Encoding says: {error}") from None
    if len(unpacked) > max_bytes:
        raise TooLargeError(f"the {encoding} body has more than {max_bytes} bytes once it is unpacked, all allowed")
    if not unpacker.eof:
        raise TensorError(f"the {encoding} body ends too early, after {len(body)} bytes")
    if unpacker.unused_data:
        raise TensorError(f"{len(unpacker.unused_data)} bytes follow the end of the {encoding} body")
    return unpacked


def deflate(body: bytes, encoding: Encoding) -> bytes:
    """Compress a body, fast rather than small: floats hardly become smaller."""
    packer = zlib.compressobj(1, wbits=_WINDOW[encoding])
    return packer.compress(body) + packer.flush()


def split(body: bytes, header_bytes: str | None) -> tuple[bytes, memoryview]:
    """Part a body into its JSON and the binary parts behind it.

    Args:
        body: unpacked.
        header_bytes: `Inference-Header-Content-Length`, the length of the JSON; None where all of it is JSON.

    Raises:
        TensorError: there are not so many bytes.
    """
    if header_bytes is None:
        return body, memoryview(b"")
    length = int(header_bytes) if re.fullmatch(r"[0-9]{1,18}", header_bytes) else -1
    if not 0 < length <= len(body):
        raise TensorError(
            f"Inference-Header-Content-Length: it must be the length of the JSON, 1 to the {len(body)} bytes of the body, "
            f"received {_shown(header_bytes)}"
        )
    return body[:length], memoryview(body)[length:]


def share_out(rest: memoryview, sizes: Sequence[tuple[str, int | None]]) -> Iterator[memoryview | None]:
    """Give each tensor its binary part, in order.

    Args:
        rest: all binary parts.
        sizes: of each tensor its name and `binary_data_size`, None where its data is in the JSON.

    Raises:
        TensorError: the parts are longer or shorter than announced.
    """
    announced = sum(size or 0 for _, size in sizes)
    if announced != len(rest):
        listed = ", ".join(f"{name} {size}" for name, size in sizes if size is not None)[:LONGEST_ECHO] or "none"
        raise TensorError(
            f"{len(rest)} bytes follow the JSON, but binary_data_size announces {announced} ({listed}); "
            "Inference-Header-Content-Length says where the JSON ends"
        )
    start = 0
    for _, size in sizes:
        yield None if size is None else rest[start : start + size]
        start += size or 0


def read_floats(name: str, shape: Sequence[int], data: "memoryview | list[Any]") -> Floats:
    """Read a tensor FP32 of a shape, from its binary part or from JSON: numbers, flat or nested.

    Raises:
        TensorError: these are not as many numbers as the shape has.
    """
    values = _binary_floats(name, shape, data) if isinstance(data, memoryview) else _json_floats(name, data)
    if values.size != math.prod(shape):
        _wrong_count(name, shape, values.size)
    return values.reshape(shape)


def _binary_floats(name: str, shape: Sequence[int], data: memoryview) -> Floats:
    wanted = math.prod(shape) * _FP32.itemsize
    if len(data) != wanted:
        raise TensorError(
            f"{name}: binary_data_size is {len(data)}, but FP32 of shape {list(shape)} has {wanted} bytes"
        )
    return np.frombuffer(data, _FP32).astype(np.float32, copy=False)


def _json_floats(name: str, data: list[Any]) -> Floats:
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError) as error:
        raise TensorError(f"{name}: data must be a list of numbers, flat or evenly nested: {error}") from None
    if values.size and values.dtype.kind not in "iuf":
        raise TensorError(f"{name}: data must be numbers, received {_shown(data)}")
    with np.errstate(over="ignore"):  # what becomes infinite is refused as such
        return values.astype(np.float32)


def read_bytes(name: str, shape: Sequence[int], data: "memoryview | list[Any]") -> list[bytes]:
    """Read the elements of a tensor BYTES of a shape, from its binary part or from JSON: texts, flat or nested.

    Raises:
        TensorError: these are not as many elements as the shape has.
    """
    count = math.prod(shape)
    elements = _binary_elements(name, count, data) if isinstance(data, memoryview) else _json_elements(name, data)
    if len(elements) != count:
        _wrong_count(name, shape, len(elements))
    return elements


def _binary_elements(name: str, count: int, data: memoryview) -> list[bytes]:
    elements: list[bytes] = []
    start = 0
    while start < len(data):
        if len(elements) == count:
            raise TensorError(f"{name}: {len(data) - start} bytes follow the {count} elements that the shape has")
        after = start + _LENGTH.size
        length = _LENGTH.unpack_from(data, start)[0] if after <= len(data) else math.inf
        if after + length > len(data):
            raise TensorError(
                f"{name}: element {len(elements)} should begin with its length, 4 bytes little endian; the {len(data) - start} "
                f"bytes left begin with {bytes(data[start:after]).hex()}"
            )
        start = after + int(length)
        elements.append(bytes(data[after:start]))
    return elements


def _json_elements(name: str, data: list[Any]) -> list[bytes]:
    texts = list(_flat(data))
    for index, each in enumerate(texts):
        if not isinstance(each, str):
            raise TensorError(f"{name}: data must be texts, element {index} is {_shown(each)}")
    return [each.encode(errors="replace") for each in texts]


def _flat(data: list[Any]) -> Iterator[Any]:
    for each in data:
        if isinstance(each, list):
            yield from _flat(each)
        else:
            yield each


def _wrong_count(name: str, shape: Sequence[int], received: int) -> NoReturn:
    raise TensorError(f"{name}: shape {list(shape)} has {math.prod(shape)} elements, received {received}")


def _shown(value: object) -> str:
    return repr(value)[:LONGEST_ECHO]


def floats_to_binary(values: Floats) -> bytes:
    """Write a tensor FP32 as a binary part."""
    return values.astype(_FP32, copy=False).tobytes()


def bytes_to_binary(elements: Sequence[bytes]) -> bytes:
    """Write the elements of a tensor BYTES as a binary part."""
    return b"".join(part for each in elements for part in (_LENGTH.pack(len(each)), each))
