"""WebP."""

import struct

from common.containers.exif import orientation_of
from common.containers.header import Header, PictureError

MOST_CHUNKS = 10_000
"""Chunks of a file; a frame of an animation is one."""


def read(data: bytes) -> Header:
    """Read a header."""
    kind = data[12:16]
    if data[8:12] != b"WEBP" or kind not in _SIZES:
        raise PictureError("the picture is broken or truncated: a RIFF file that is no WebP")
    width, height = _SIZES[kind](data)
    orientation = _orientation(data) if kind == b"VP8X" else 1
    return Header("WEBP", width, height, lambda: data, orientation)


def _lossy(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _lossless(data: bytes) -> tuple[int, int]:
    bits = struct.unpack_from("<I", data, 21)[0]
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _extended(data: bytes) -> tuple[int, int]:
    if len(data) < 30:
        raise struct.error("the WebP ends in its header")
    return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1


_SIZES = {b"VP8 ": _lossy, b"VP8L": _lossless, b"VP8X": _extended}


def _orientation(data: bytes) -> int:
    found: dict[bytes, bytes] = {}
    position, chunks = 12, 0
    while position + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, position)
        if kind in (b"EXIF", b"XMP "):
            found[kind] = data[position + 8 : position + 8 + size]
        position, chunks = position + 8 + size + size % 2, chunks + 1
        if chunks > MOST_CHUNKS:
            raise PictureError(f"the WebP has more than {MOST_CHUNKS} chunks")
    return orientation_of(found.get(b"EXIF", b""), found.get(b"XMP ", b""))
