"""What lies around the pixels of a picture's file, one module per format: read before anything is decoded, and bounded.

A header says how many pixels the picture has, how it was held, and how to write the file again without its metadata. Decoders then
see the pixels alone: what they would make of comments, profiles and EXIF data costs seconds that no count of pixels bounds.
"""

from collections.abc import Callable

from common.containers import bmp, gif, jpeg, png, ppm, tiff, webp
from common.containers.header import Header, PictureError, broken

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

_READERS: dict[bytes, Callable[[bytes], Header]] = {
    b"\xff\xd8\xff": jpeg.read,
    b"\x89PNG\r\n\x1a\n": png.read,
    b"GIF87a": gif.read,
    b"GIF89a": gif.read,
    b"RIFF": webp.read,
    b"BM": bmp.read,
    b"II": tiff.read,
    b"MM": tiff.read,
    **{b"P%d" % number: ppm.read for number in range(1, 7)},
}
"""By how a file begins."""

__all__ = ["FORMATS", "Header", "PictureError", "read_header"]


def read_header(data: bytes) -> Header:
    """Read the header of a picture; takes microseconds, and milliseconds per megabyte at worst.

    Raises:
        PictureError: the bytes are empty, of no known format, or broken before the pixels, or decoding would take longer than the
            number of its pixels explains.
    """
    if not data:
        raise PictureError("the picture is empty (0 bytes)")
    for mark, read in _READERS.items():
        if data.startswith(mark):
            with broken():
                return read(data)
    raise PictureError(f"not a picture: {len(data)} bytes in none of the formats {', '.join(FORMATS)}")
