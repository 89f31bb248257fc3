"""PBM, PGM and PPM, as bytes and as text.

Pillow decodes text, and bytes on another scale than 255, in Python: 1.6 s per megapixel. They are brought on its scale here.
"""

import re
import struct
from functools import partial

import numpy as np
from numpy.typing import NDArray

from common.containers.header import Header, PictureError

MAX_HEADER_BYTES = 2**16
"""Longest header, comments in it included."""

_TOKEN = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])*+([0-9]{1,10})(?=[\s#])")
_COMMENT = re.compile(rb"#[^\r\n]*(?:[\r\n]|\Z)")
_BITS_AS_TEXT, _GREY_AS_TEXT, _COLOUR_AS_TEXT, _BITS, _GREY, _COLOUR = range(1, 7)
_IN_BYTES = {_GREY_AS_TEXT: _GREY, _COLOUR_AS_TEXT: _COLOUR}
_DIGITS = b"0123456789 \t\n\r\v\f"
_PIECE_BYTES = 2**14
"""Text that numpy reads at once, and nobody else meanwhile."""


def read(data: bytes) -> Header:
    """Read a header."""
    kind, position = data[1] - ord("0"), 2
    numbers: list[int] = []
    for _ in range(2 if kind in (_BITS_AS_TEXT, _BITS) else 3):
        found = _TOKEN.match(data, position, MAX_HEADER_BYTES)
        if found is None:
            raise struct.error(f"no width, height and largest value in the first {MAX_HEADER_BYTES} bytes of the PPM")
        numbers.append(int(found[1]))
        position = found.end()
    width, height, *scale = numbers
    largest = scale[0] if scale else 1
    if not 0 < largest < 2**16:
        raise PictureError(f"the largest value of a PPM must be 1 to 65535, received {largest}")
    return Header("PPM", width, height, partial(_bare, data, position + 1, kind, width, height, largest))


def _bare(data: bytes, start: int, kind: int, width: int, height: int, largest: int) -> bytes:
    pixels: bytes | memoryview = memoryview(data)[start:]
    if kind in (_BITS_AS_TEXT, _BITS):
        text = kind == _BITS_AS_TEXT
        return b"P%d %d %d\n" % (kind, width, height) + (_COMMENT.sub(b"", pixels) if text else pixels)
    in_bytes = _IN_BYTES.get(kind, kind)
    white = 65535 if in_bytes == _GREY and largest > 255 else 255
    count = width * height * (3 if in_bytes == _COLOUR else 1)
    if kind in _IN_BYTES or largest != white:
        values = _from_text(bytes(pixels), count) if kind in _IN_BYTES else _from_bytes(pixels, count, largest)
        pixels = _scaled(values, largest, white)
    return b"P%d %d %d %d\n" % (in_bytes, width, height, white) + pixels


def _from_bytes(pixels: memoryview, count: int, largest: int) -> NDArray[np.integer]:
    kind = np.dtype(">u2" if largest > 255 else "u1")
    there = min(count, len(pixels) // kind.itemsize)
    return np.minimum(np.frombuffer(pixels, kind, there), largest)


def _from_text(text: bytes, count: int) -> NDArray[np.integer]:
    text = _COMMENT.sub(b"", text)
    if wrong := text.translate(None, _DIGITS):
        raise PictureError(f"the picture is broken or truncated: {wrong[:10]!r} among the numbers of a PPM")
    pieces: list[NDArray[np.integer]] = []
    start = found = 0
    while start < len(text) and found < count:
        end = _end_of_number(text, start + _PIECE_BYTES)
        pieces.append(np.fromstring(text[start:end], np.int64, sep=" "))
        start, found = end, found + len(pieces[-1])
    return np.concatenate([*pieces, np.empty(0, np.int64)])[:count]


def _end_of_number(text: bytes, at: int) -> int:
    while at < len(text) and text[at] > ord(" "):
        at += 1
    return at


def _scaled(values: NDArray[np.integer], largest: int, white: int) -> bytes:
    if values.size and values.max() > largest:
        raise PictureError(f"the picture is broken or truncated: {values.max()} in a PPM up to {largest}")
    table = np.rint(np.arange(largest + 1) / largest * white).astype(">u2" if white > 255 else "u1")
    return table[values].tobytes()
