"""GIF: of an animation, the first frame."""

import re
import struct
from functools import partial

from common.containers.header import Header, PictureError

MOST_BLOCKS = 100_000
"""Blocks of comments and of other extensions before the first frame; one holds up to 255 bytes."""

_BLOCK = re.compile(rb"[!,;]")
_CONTROL = 0xF9
"""Label of the extension with the transparent colour."""


def read(data: bytes) -> Header:
    """Read a header, up to the first frame."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    begin = position = 13 + (3 * (2 << (flags & 7)) if flags & 0x80 else 0)
    control, blocks = slice(0), 0
    while (found := _BLOCK.search(data, position)) and found.group() != b";":
        start = found.start()
        if found.group() == b",":
            left, top, across, down = struct.unpack_from("<HHHH", data, start + 1)
            size = max(width, left + across), max(height, top + down)
            return Header("GIF", *size, partial(_join, data, (slice(begin), control, slice(start, None))))
        position = start + 2
        while length := data[position]:
            position, blocks = position + 1 + length, blocks + 1
            if blocks > MOST_BLOCKS:
                raise PictureError(f"the GIF has more than {MOST_BLOCKS} blocks before its first frame")
        position += 1
        if data[start + 1] == _CONTROL:
            control = slice(start, position)
    raise PictureError("the picture is broken or truncated: the GIF has no frame")


def _join(data: bytes, parts: tuple[slice, ...]) -> bytes:
    return b"".join(data[part] for part in parts)
