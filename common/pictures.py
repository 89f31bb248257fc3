"""Opens pictures from untrusted sources, with limits: a small file must not take all memory."""

import io
import struct
import warnings
from contextlib import suppress

import simplejpeg
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 50_000_000
"""Largest width times height; a larger picture is refused before it is decoded."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Operation that turns a picture upright, by its EXIF orientation; 1 is upright, other values have no meaning."""
_SIDEWAYS = frozenset(_UPRIGHT[orientation] for orientation in (5, 6, 7, 8))


class PictureError(ValueError):
    """A picture cannot be used; the message says why."""


def open_picture(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a picture (the first frame of an animation), turned upright if its EXIF data asks for it.

    Args:
        data: the file's bytes.
        max_pixels: limit on width times height, checked before decoding.

    Raises:
        PictureError: the bytes are empty, truncated, broken or of an unknown format, or the picture is too large.
    """
    if not data:
        raise PictureError("the picture is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limit refuses decompression bombs
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            if picture.width * picture.height > max_pixels:
                raise PictureError(
                    f"the picture has {picture.width} x {picture.height} pixels, at most {max_pixels} are allowed"
                )
            return _upright(_decoded(picture, data))
    except UnidentifiedImageError:
        raise PictureError(f"not a picture: {len(data)} bytes in none of the formats {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise PictureError(
            f"the picture has hundreds of millions of pixels, at most {max_pixels} are allowed"
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, PictureError):
            raise
        raise PictureError(f"the picture is broken or truncated: {error}") from None


def _decoded(picture: Image.Image, data: bytes) -> Image.Image:
    """Decode an opened picture: colour JPEGs with simplejpeg, which gives exactly Pillow's pixels in four fifths of the time."""
    if picture.format == "JPEG" and picture.mode == "RGB":
        with suppress(ValueError):  # broken: Pillow reports how, or can still read it
            decoded = Image.fromarray(simplejpeg.decode_jpeg(data, strict=True))
            decoded.info = picture.info
            return decoded
    picture.load()
    return picture


def picture_size(data: bytes) -> tuple[int, int]:
    """Read width and height of the upright picture, in pixels, without decoding it.

    Raises:
        PictureError: the bytes do not begin like a picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise PictureError(f"not a picture: {error}") from None
    turned = picture.format != "TIFF" and _turn(picture) in _SIDEWAYS
    return (picture.height, picture.width) if turned else picture.size


def _turn(picture: Image.Image) -> Image.Transpose | None:
    try:
        return _UPRIGHT.get(picture.getexif().get(_ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, struct.error):
        return None


def _upright(picture: Image.Image) -> Image.Image:
    """Turn a decoded picture upright; without readable EXIF data it stays as it is, as in viewers. Pillow turns TIFFs itself."""
    turn = _turn(picture)
    return picture if turn is None else picture.transpose(turn)
