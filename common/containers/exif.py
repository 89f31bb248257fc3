"""Tagged values, as TIFF files and EXIF data have them, and the one of them that decides how a picture lies."""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

ORIENTATION = 0x0112
_PREFIX = b"Exif\0\0"

_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {3: "H", 4: "I", 16: "Q"}
_ORDERS = {b"II": "<", b"MM": ">"}
_TIFF, _TIFF_SWAPPED, _BIG_TIFF = 42, 42 << 8, 43

_MOST_TAGS = 4096

_ORIENTATION_IN_XMP = re.compile(rb"tiff:Orientation(?:=\"|>)([0-9])")


class Tag(NamedTuple):
    """One tagged value: its number, how many bytes its values have, and the first of them if it is an integer."""

    number: int
    values: int
    size_bytes: int
    first: int | None


def read_tags(data: bytes) -> Iterator[Tag]:
    """Read the first directory of tags.

    Raises:
        struct.error: it is broken or ends too early.
    """
    order = _ORDERS.get(data[:2], "<")
    version = struct.unpack_from(f"{order}H", data, 2)[0]
    if data[:2] not in _ORDERS or version not in (_TIFF, _TIFF_SWAPPED, _BIG_TIFF):
        raise struct.error(f"tagged values cannot begin with {data[:4].hex()}")
    big = version == _BIG_TIFF
    start = struct.unpack_from(f"{order}Q", data, 8)[0] if big else struct.unpack_from(f"{order}I", data, 4)[0]
    if start > len(data):
        raise struct.error(f"tagged values at byte {start} of {len(data)}")
    count = struct.unpack_from(f"{order}Q" if big else f"{order}H", data, start)[0]
    if count > _MOST_TAGS:
        raise struct.error(f"{count} tags, at most {_MOST_TAGS} are allowed")
    entry = struct.Struct(f"{order}HHQ8s" if big else f"{order}HHI4s")
    start += 8 if big else 2
    for index in range(count):
        number, kind, values, inline = entry.unpack_from(data, start + index * entry.size)
        size = values * _VALUE_BYTES.get(kind, 0)
        at = None if size <= len(inline) else struct.unpack(f"{order}{'Q' if big else 'I'}", inline)[0]
        yield Tag(number, values, size, _first(order, kind, values, inline if at is None else data[at : at + 8]))


def _first(order: str, kind: int, values: int, data: bytes) -> int | None:
    return struct.unpack_from(order + _INTEGERS[kind], data)[0] if kind in _INTEGERS and values else None


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """Read how a picture was held from its EXIF data, or where they do not say from its XMP data.

    Returns:
        1 to 8; 1 where there is none, or none that can be read.
    """
    try:
        tags = read_tags(exif.removeprefix(_PREFIX))
        found = next((tag.first for tag in tags if tag.number == ORIENTATION), None)
    except struct.error:
        found = None
    if found is None and (match := _ORIENTATION_IN_XMP.search(xmp)):
        found = int(match[1])
    return found if found is not None and 1 <= found <= 8 else 1
