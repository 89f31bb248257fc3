"""BMP."""

import struct

from common.containers.header import Header, PictureError

_CORE_HEADER_BYTES = 12
_RUN_LENGTHS = frozenset({1, 2})

MAX_RUN_LENGTH_BYTES = 2**20
"""Longest file whose pixels are run lengths, which Pillow decodes in Python: 0.15 s per megabyte."""


def read(data: bytes) -> Header:
    """Read a header."""
    if struct.unpack_from("<I", data, 14)[0] == _CORE_HEADER_BYTES:
        width, height = struct.unpack_from("<HH", data, 18)
        return Header("BMP", width, height, lambda: data)
    width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression in _RUN_LENGTHS and len(data) > MAX_RUN_LENGTH_BYTES:
        raise PictureError(
            f"a run-length encoded BMP of {len(data)} bytes, at most {MAX_RUN_LENGTH_BYTES} are allowed: save it uncompressed"
        )
    return Header("BMP", abs(width), abs(height), lambda: data)  # a negative height means rows from the top
