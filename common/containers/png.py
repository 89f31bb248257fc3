"""PNG: of an animation, the picture that viewers without animations show."""

import struct
import zlib

from common.containers.exif import orientation_of
from common.containers.header import Header, PictureError

MOST_CHUNKS, CHUNK_BYTES = 1000, 512
"""A file may have so many chunks, and one more per so many bytes: Pillow takes 10 µs for each, however short."""

_LONGEST_TEXT_BYTES = 2**20
_EXIF, _XMP, _EXIF_AS_TEXT = b"eXIf", b"XML:com.adobe.xmp\0", b"Raw profile type exif\0"
_ANCILLARY = 0x20
"""Bit of the first letter of chunks that are not needed to decode the pixels."""


def read(data: bytes) -> Header:
    """Read a header, and find out which chunks have pixels."""
    if data[12:16] != b"IHDR":
        raise PictureError("the picture is broken or truncated: the PNG does not begin with IHDR")
    width, height = struct.unpack_from(">II", data, 16)
    kept, found = _chunks(data)
    exif = found.get(_EXIF) or _from_hexadecimal(found.get(_EXIF_AS_TEXT, b""))
    orientation = orientation_of(exif, found.get(_XMP, b""))
    return Header("PNG", width, height, lambda: _join(data, kept), orientation)


def _chunks(data: bytes) -> tuple[list[slice], dict[bytes, bytes]]:
    """Where the chunks with pixels lie, and the metadata that say how the picture was held."""
    kept, found, position = [slice(0, 8)], dict[bytes, bytes](), 8
    most = MOST_CHUNKS + len(data) // CHUNK_BYTES
    for _ in range(most):
        if position + 8 > len(data):
            return kept, found
        size, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + size
        if not kind[0] & _ANCILLARY or kind == b"tRNS":
            if kept[-1].stop == position:
                kept[-1] = slice(kept[-1].start, end)
            else:
                kept.append(slice(position, end))
        elif kind == _EXIF:
            found[kind] = data[position + 8 : end - 4]
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            found |= _text(kind, data[position + 8 : end - 4])
        if kind == b"IEND":
            return kept, found
        position = end
    raise PictureError(f"the PNG has more than {most} chunks in {len(data)} bytes")


def _text(kind: bytes, body: bytes) -> dict[bytes, bytes]:
    """Read a text that may say how the picture was held; none that is packed and broken."""
    keyword = next((each for each in (_XMP, _EXIF_AS_TEXT) if body.startswith(each)), None)
    if keyword is None:
        return {}
    rest = body[len(keyword) :]
    packed = kind == b"zTXt" or (kind == b"iTXt" and rest[:1] == b"\1")
    if kind == b"iTXt":
        rest = (rest[2:].split(b"\0", 2) or [b""])[-1]
    elif kind == b"zTXt":
        rest = rest[1:]
    try:
        return {keyword: zlib.decompressobj().decompress(rest, _LONGEST_TEXT_BYTES) if packed else rest}
    except zlib.error:
        return {}


def _from_hexadecimal(profile: bytes) -> bytes:
    """Read EXIF data from a text as ImageMagick writes it: a name and a length, then hexadecimal digits."""
    try:
        return bytes.fromhex(b"".join(profile.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


def _join(data: bytes, kept: list[slice]) -> bytes:
    return data if len(kept) == 1 else b"".join(data[part] for part in kept)
