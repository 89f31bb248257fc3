"""Opens pictures from untrusted sources, with limits: a small file must not take all memory, nor a minute."""

import io
import warnings
from contextlib import suppress
from pathlib import Path

import simplejpeg
from PIL import Image

from common import containers
from common.containers import Header, PictureError, read_header

MAX_PIXELS = 50_000_000
"""Largest width times height; a larger picture is refused before it is decoded."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Operation that turns a picture upright, by its EXIF orientation; 1 is upright."""

SOURCES = (Path(__file__), *sorted(Path(containers.__file__).parent.glob("*.py")))
"""The files of the code that opens pictures: what they do decides pixels."""

__all__ = ["MAX_PIXELS", "SOURCES", "PictureError", "open_picture", "picture_pixels", "picture_size"]


def open_picture(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a picture (the first frame of an animation), turned upright if its EXIF data asks for it.

    Args:
        data: the file's bytes.
        max_pixels: limit on width times height, checked before decoding.

    Raises:
        PictureError: the bytes are empty, truncated, broken or of an unknown format, the picture is too large, or decoding it would
            take longer than its size explains.
    """
    header = read_header(data)
    header.require_few_pixels(max_pixels)
    try:
        picture = _decoded(header)
    except PictureError:
        raise
    except Exception as error:  # whatever a decoder trips over: the file's fault
        raise PictureError(f"the picture is broken or truncated: {error or type(error).__name__}") from None
    turn = None if header.format == "TIFF" else _UPRIGHT.get(header.orientation)  # Pillow turns TIFFs itself
    return picture if turn is None else picture.transpose(turn)


def _decoded(header: Header) -> Image.Image:
    """Decode a picture: colour JPEGs with simplejpeg, which gives exactly Pillow's pixels in four fifths of the time."""
    data = header.bare()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # our own limit refuses decompression bombs
        picture = Image.open(io.BytesIO(data), formats=(header.format,))
        if picture.width * picture.height > header.pixels:
            raise PictureError(
                f"the picture is broken: it says {header.width} x {header.height} pixels first, and {picture.width} x "
                f"{picture.height} then"
            )
        if picture.format == "JPEG" and picture.mode == "RGB":
            with suppress(ValueError):  # broken: Pillow reports how, or can still read it
                return Image.fromarray(simplejpeg.decode_jpeg(data, strict=True))
        picture.load()
    return picture


def picture_pixels(data: bytes) -> int:
    """Read width times height without decoding anything; takes microseconds.

    Raises:
        PictureError: as for `open_picture`, as far as the header shows it.
    """
    return read_header(data).pixels


def picture_size(data: bytes) -> tuple[int, int]:
    """Read width and height of the upright picture, in pixels, without decoding it.

    Raises:
        PictureError: as for `open_picture`, as far as the header shows it.
    """
    return read_header(data).upright_size
