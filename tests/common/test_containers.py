"""What lies around the pixels is left aside, and the pixels stay Pillow's to the bit."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from common.pictures import PictureError, open_picture, picture_pixels, picture_size
from tests.common.bombs import gif, jpeg, jpeg_segment, png, png_chunk, tagged, tiff

GREY = np.arange(6, dtype=np.uint8).reshape(2, 3)
ORIENTATION_6 = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, 6, 0)
XMP_6 = b'<rdf tiff:Orientation="6"/>'
BROKEN_EXIF = {
    "text": b"no EXIF data",
    "empty": b"",
    "ends early": ORIENTATION_6[:12],
    "points outside": b"II*\0" + struct.pack("<I", 2**31),
    "points far outside": b"II+\0" + bytes(4) + b"\xff" * 16,
    "other type": ORIENTATION_6.replace(b"\x12\x01\x03", b"\x12\x01\x02"),
    "no such orientation": ORIENTATION_6.replace(b"\x06", b"\x63"),
    "many tags": tagged(4000, 10),
}
BROKEN_TEXTS = {
    "no hexadecimal": png_chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 4\nxyz\n"),
    "packed and broken": png_chunk(b"zTXt", b"Raw profile type exif\0\0broken"),
    "XMP that ends early": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1"),
    "no chunk that it is": png_chunk(b"pHYs", b"1"),
}
PPMS = {
    "bits as text": b"P1\n# by hand\n3 2\n101\n0#a comment\n10",
    "grey as text": b"P2 3 2 9\n0 1 2 # three\n3 4 9",
    "16 bits as text": b"P2 3 2 1000\n0 1 2 3 4 1000",
    "colour as text": b"P3 2 1 15\n0 1 2\n13 14 15",
    "colour of 16 bits as text": b"P3 2 1 65535\n0 1 2\n13 1400 65535",
    "bits": b"P4 3 2\n\xa0\x40",
    "grey": b"P5 3 2 255\n" + bytes(range(6)),
    "grey with a comment": b"P5\n#one\n3 #two\n 2\n#three\n255\n" + bytes(range(6)),
    "grey up to 7": b"P5 3 2 7\n" + bytes([0, 1, 2, 3, 7, 9]),
    "grey of 16 bits": b"P5 3 2 65535\n" + bytes(range(12)),
    "grey up to 1000": b"P5 3 2 1000\n" + np.array([0, 1, 2, 500, 999, 2000], ">u2").tobytes(),
    "colour": b"P6 2 1 255\n" + bytes(range(6)),
    "colour up to 200": b"P6 2 1 200\n" + bytes([0, 1, 2, 100, 200, 255]),
    "colour of 16 bits": b"P6 2 1 65535\n" + np.array([0, 1, 2, 500, 999, 65535], ">u2").tobytes(),
}


def with_exif(kind: str, exif: bytes) -> bytes:
    """A grey picture with any bytes in the place of EXIF data."""
    if kind == "PNG":
        return png(png_chunk(b"eXIf", exif))
    if kind == "JPEG":
        return jpeg(jpeg_segment(0xE1, b"Exif\0\0" + exif))
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "WEBP", lossless=True, exif=b"Exif\0\0" + exif or b"?")
    return data.getvalue()


@pytest.mark.parametrize("kind", PPMS)
def test_a_ppm_is_what_pillow_makes_of_it(kind: str) -> None:
    by_pillow = Image.open(io.BytesIO(PPMS[kind]))
    ours = open_picture(PPMS[kind])
    assert ours.mode == by_pillow.mode
    assert np.array_equal(np.asarray(ours), np.asarray(by_pillow))


@pytest.mark.parametrize(
    "data",
    [
        b"P2 3 2 9\n0 1 2 3 4",
        b"P2 3 2 9\n0 1 2 3 4 x",
        b"P2 3 2 9\n0 1 2 3 4 10",
        b"P5 3 2 7\n\0",
        b"P5 3 2",
        b"P6 3 2 0\n",
    ],
    ids=["too few numbers", "a letter", "above the largest", "too few bytes", "no scale", "scale of zero"],
)
def test_a_broken_ppm_is_refused(data: bytes) -> None:
    with pytest.raises(PictureError):
        open_picture(data)


@pytest.mark.parametrize("exif", BROKEN_EXIF)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_with_broken_exif_data_is_read_as_it_lies(kind: str, exif: str) -> None:
    assert open_picture(with_exif(kind, BROKEN_EXIF[exif])).size == (8, 8)


@pytest.mark.parametrize("text", BROKEN_TEXTS)
def test_a_picture_with_broken_texts_is_read_as_it_lies(text: str) -> None:
    assert open_picture(png(BROKEN_TEXTS[text])).size == (8, 8)


def test_orientation_is_also_found_in_xmp_and_in_texts() -> None:
    wide = io.BytesIO()
    Image.fromarray(GREY).save(wide, "PNG")
    start, rest = wide.getvalue()[:33], wide.getvalue()[33:]
    profile = b"\nexif\n      26\n" + ORIENTATION_6.hex().encode() + b"\n"
    for chunk in (
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP_6),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP_6)),
        png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)),
        png_chunk(b"tEXt", b"Raw profile type exif\0" + profile),
    ):
        data = start + chunk + rest
        turned = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        assert turned.size == (2, 3)
        assert np.array_equal(np.asarray(open_picture(data)), np.asarray(turned))
        assert picture_size(data) == (2, 3)


def test_a_gif_with_a_frame_in_a_corner_is_what_pillow_makes_of_it() -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(GREY[::-1])]
    data = io.BytesIO()
    frames[0].save(data, "GIF", save_all=True, append_images=frames[1:], transparency=3, comment=b"two frames")
    smaller = bytearray(data.getvalue())
    smaller[6:10] = struct.pack("<HH", 5, 4)  # the screen
    for each in (data.getvalue(), bytes(smaller), gif(b"!\xfe\x03abc\0")):
        by_pillow = Image.open(io.BytesIO(each))
        ours = open_picture(each)
        assert ours.info.get("transparency") == by_pillow.info.get("transparency")
        assert np.array_equal(np.asarray(ours), np.asarray(by_pillow))


def test_scans_behind_a_picture_or_in_its_thumbnail_do_not_count() -> None:
    appended = jpeg() + b"\xff\xda\0\2" * 500
    thumbnail = jpeg(jpeg_segment(0xE1, b"thumbnail" + b"\xff\xda" * 500))
    assert open_picture(appended).size == open_picture(thumbnail).size == (8, 8)


def test_a_second_size_behind_the_first_is_refused() -> None:
    larger = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 800, 800, 8, 2, 0, 0, 0))
    with pytest.raises(PictureError, match=re.escape("8 x 8 pixels first, and 800 x 800 then")):
        open_picture(png(larger))


def test_pixels_are_counted_without_decoding() -> None:
    assert picture_pixels(tiff(width=30_000, height=20_000)) == 600_000_000
    assert picture_pixels(PPMS["grey"]) == 6
    assert picture_pixels(gif()) == picture_pixels(jpeg()) == picture_pixels(png()) == 64
