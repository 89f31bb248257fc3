"""Small files that would take a decoder long: each is out of proportion in one way."""

import io
import re
import struct
import zlib
from collections.abc import Callable

from PIL import Image


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    picture.save(data, kind, **options)
    return data.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks: bytes) -> bytes:
    """A PNG of 8 x 8 pixels with more chunks before the pixels."""
    plain = encoded(Image.new("RGB", (8, 8)), "PNG")
    return plain[:33] + b"".join(chunks) + plain[33:]


def jpeg(*segments: bytes) -> bytes:
    """A JPEG of 8 x 8 pixels that begins with more segments."""
    plain = encoded(Image.new("RGB", (8, 8)), "JPEG")
    return plain[:2] + b"".join(segments) + plain[2:]


def gif(*blocks: bytes) -> bytes:
    """A GIF of 8 x 8 pixels with more blocks before its frame."""
    plain = encoded(Image.new("P", (8, 8)), "GIF")
    end = 13 + 3 * (2 << (plain[10] & 7))
    return plain[:end] + b"".join(blocks) + plain[end:]


def jpeg_segment(code: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(body) + 2) + body


def scans(side: int, count: int) -> bytes:
    """A progressive JPEG whose last scan, a few bytes that revisit every block, is repeated."""
    plain = encoded(Image.new("RGB", (side, side)), "JPEG", progressive=True)
    begins = [found.start() for found in re.finditer(b"\xff\xda", plain)]
    return plain[:-2] + plain[begins[-1] : -2] * (count - len(begins)) + plain[-2:]


def tiff(*more: tuple[int, int, int], width: int = 8, height: int = 8, behind: bytes = bytes(64)) -> bytes:
    """A grey TIFF; further tags are (number, count, value), of four bytes each."""
    tags = [(256, 1, width), (257, 1, height), (258, 1, 8), (259, 1, 1), (262, 1, 1), (277, 1, 1), *more]
    entries = b"".join(struct.pack("<HHII", number, 4, count, value) for number, count, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + behind


def tagged(count: int, size: int) -> bytes:
    """EXIF data whose values all lie in the same place, and take their size times their count once read."""
    tags = b"".join(struct.pack("<HHII", 40_000 + index, 7, size, 8) for index in range(count))
    return b"II*\0" + struct.pack("<IH", 8, count) + tags + bytes(4 + size)


def bmp_of_runs(size_bytes: int) -> bytes:
    """A BMP of run lengths, each of two pixels."""
    side = 2 * round((size_bytes / 4) ** 0.5)
    body = (bytes([2, 0]) * (side // 2) + b"\0\0") * side + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(body), 0, 0, 1078) + header + bytes(1024) + body


_NOTHING = zlib.compress(bytes(2**20 - 10), 9)

ACCEPTED: dict[str, Callable[[], bytes]] = {
    "PNG profiles": lambda: png(png_chunk(b"iCCP", b"k\0\0" + _NOTHING) * 900),
    "PNG texts": lambda: png(*(png_chunk(b"zTXt", b"k%d\0\0" % each + _NOTHING) for each in range(60))),
    "PNG EXIF": lambda: png(png_chunk(b"eXIf", tagged(4000, 500_000))),
    "JPEG EXIF": lambda: jpeg(jpeg_segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 200),
    "JPEG padding": lambda: jpeg(b"\xff" * 5_000_000),
    "GIF comment": lambda: gif(b"!\xfe" + (b"\1c" * 90_000) + b"\0"),
    "GIF junk": lambda: gif(bytes(5_000_000)),
    "PPM text": lambda: b"P2 2000 2000 255\n" + b"0 " * 4_000_000,
    "PPM comments in text": lambda: b"P2 10 10 255\n" + b"#\n" * 2_000_000 + b"0 " * 100,
    "PPM on another scale": lambda: b"P6 2000 2000 9\n" + bytes(12_000_000),
    "PGM of 16 bits": lambda: b"P5 2000 2000 1000\n" + bytes(8_000_000),
    "scans": lambda: scans(2000, 100),
}
"""Pictures that can be read, once what is out of proportion is left aside."""

REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG chunks": (lambda: png(png_chunk(b"abCd", b"") * 200_000), r"the PNG has more than \d+ chunks in \d+ bytes"),
    "PNG pixels in crumbs": (
        lambda: png(png_chunk(b"IDAT", b"") * 200_000),
        r"the PNG has more than \d+ chunks in \d+ bytes",
    ),
    "JPEG segments": (
        lambda: jpeg(jpeg_segment(0xFE, b"") * 200_000),
        "the JPEG has more than 10000 segments before its first scan",
    ),
    "scans": (lambda: scans(500, 2000), "the JPEG has more than 100 scans, at most 100 are allowed at its size"),
    "scans of many pixels": (lambda: scans(7000, 100), "the JPEG has more than 20 scans"),
    "GIF blocks": (lambda: gif(b"!\xfe" + b"\1c" * 2_000_000 + b"\0"), "the GIF has more than 100000 blocks"),
    "PPM comments": (lambda: b"P6 " + b"#\n" * 2_500_000 + b"8 8 255\n" + bytes(192), "in the first 65536 bytes"),
    "TIFF tags": (
        lambda: tiff(*((40_000 + each, 1_000_000, 8) for each in range(200)), behind=bytes(4_000_000)),
        r"the TIFF has \d+ bytes, but its tags announce \d+",
    ),
    "TIFF strips": (
        lambda: tiff((273, 500_000, 8), (278, 1, 1), width=1, height=500_000, behind=bytes(4_000_000)),
        "the TIFF has 500000 strips or tiles, at most 65536 are allowed",
    ),
    "TIFF tiles": (
        lambda: tiff((322, 1, 30_000), (323, 1, 30_000), (324, 1, 8), (325, 1, 64)),
        "the TIFF has tiles of 900000000 pixels, the whole picture has 64",
    ),
    "BMP of runs": (lambda: bmp_of_runs(4_000_000), "a run-length encoded BMP of 400.... bytes"),
}
"""Pictures that are refused, and why."""
