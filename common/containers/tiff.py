"""TIFF: the first picture of a file."""

import struct

from common.containers.exif import ORIENTATION, read_tags
from common.containers.header import Header, PictureError

_WIDTH, _HEIGHT, _STRIPS, _TILE_WIDTH, _TILE_HEIGHT, _TILES = 256, 257, 273, 322, 323, 324

MOST_STRIPS = 65_536
"""Strips or tiles of a picture, of which Pillow makes a list: 6 µs each."""
SMALL_TILE_PIXELS = 1024**2
"""Tiles up to this size may be larger than the picture; a tile is decoded whole."""


def read(data: bytes) -> Header:
    """Read a header."""
    tags = {tag.number: tag for tag in read_tags(data)}
    first = {number: tag.first or 0 for number, tag in tags.items()}
    if not (first.get(_WIDTH) and first.get(_HEIGHT)):
        raise struct.error("the TIFF has no width or no height")
    # Pillow turns it by itself, which changes neither the number of pixels nor which of them are neighbours
    header = Header("TIFF", first[_WIDTH], first[_HEIGHT], lambda: data, first.get(ORIENTATION, 1))
    if (size := sum(tag.size_bytes for tag in tags.values())) > len(data):
        raise PictureError(f"the TIFF has {len(data)} bytes, but its tags announce {size}")
    strips = max((tags[kind].values for kind in (_STRIPS, _TILES) if kind in tags), default=0)
    if strips > MOST_STRIPS:
        raise PictureError(f"the TIFF has {strips} strips or tiles, at most {MOST_STRIPS} are allowed")
    tile = first.get(_TILE_WIDTH, 0) * first.get(_TILE_HEIGHT, 0)
    if tile > max(SMALL_TILE_PIXELS, 4 * header.pixels):
        raise PictureError(f"the TIFF has tiles of {tile} pixels, the whole picture has {header.pixels}")
    return header
