"""Pictures from untrusted sources: refused with the reason, turned upright, measured without decoding."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from common.pictures import PictureError, open_picture, picture_size


def encoded(kind: str, size: tuple[int, int] = (4, 2), orientation: int | None = None) -> bytes:
    data, exif = io.BytesIO(), Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    pixels = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[1], size[0])
    Image.fromarray(pixels).save(data, kind, exif=exif)
    return data.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A file that ends where its pixels should begin."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    ended = struct.pack(">I", zlib.crc32(body)) + struct.pack(">I", 100) + b"IDAT"
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + ended


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", r"the picture is empty \(0 bytes\)"),
        (b"hello", "not a picture: 5 bytes in none of the formats BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP"),
        (encoded("PNG", (4, 3)), "the picture has 4 x 3 pixels, at most 11 are allowed"),
        (png_header(2, 2), "the picture is broken or truncated"),
        (png_header(100_000, 100_000), "the picture has 100000 x 100000 pixels, at most 11 are allowed"),
    ],
    ids=["empty", "text", "large", "truncated", "bomb"],
)
def test_a_picture_that_cannot_be_used_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=f"^{reason}"):
        open_picture(data, max_pixels=11)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "size"), [(None, (4, 2)), (1, (4, 2)), (3, (4, 2)), (6, (2, 4)), (8, (2, 4)), (99, (4, 2))]
)
def test_the_size_is_that_of_the_upright_picture(kind: str, orientation: int | None, size: tuple[int, int]) -> None:
    data = encoded(kind, orientation=orientation)
    assert open_picture(data).size == size
    assert picture_size(data) == size


def test_unreadable_orientation_leaves_the_picture_as_it_is() -> None:
    upright = encoded("PNG")
    exif = b"eXIf" + b"no EXIF data"
    chunk = struct.pack(">I", len(exif) - 4) + exif + struct.pack(">I", zlib.crc32(exif))
    data = upright[:33] + chunk + upright[33:]
    assert np.array_equal(np.asarray(open_picture(data)), np.asarray(open_picture(upright)))
    assert picture_size(data) == (4, 2)


@pytest.mark.parametrize("data", [b"", b"hello", encoded("PNG")[:20]], ids=["empty", "text", "short"])
def test_bytes_without_a_size_are_refused(data: bytes) -> None:
    with pytest.raises(PictureError, match=r"^(not a picture|the picture is (empty|broken))"):
        picture_size(data)
