"""JPEG."""

import re
import struct
from dataclasses import dataclass
from functools import partial

from common.containers.exif import orientation_of
from common.containers.header import Header, PictureError

MOST_SEGMENTS = 10_000
"""Segments before the first scan, and as many after it; one holds up to 64 kB."""
MOST_SCANS = 100
"""Scans of a progressive picture; cameras and programs write about ten."""
MOST_SCANNED_PIXELS = 1_000_000_000
"""Scans times pixels: twenty scans of 50 megapixels. Every scan visits every block anew, in up to 1.4 ns per pixel."""

_MARKER = re.compile(rb"\xff([\xc0-\xfe])")
_BETWEEN_SCANS = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
"""A marker behind the pixels of a scan, among which lie zeros that are stuffed and marks for restarting."""
_ALONE = frozenset(range(0xD0, 0xDA)) - {0xD9}
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BASELINE, _SEQUENTIAL = 0xC0, frozenset({0xC0, 0xC1})
_APPS = frozenset(range(0xE0, 0xF0))
_END, _SCAN, _EXIF_OR_XMP, _COMMENT = 0xD9, 0xDA, 0xE1, 0xFE
_ADOBE = 0xEE
_DECIDING = frozenset({0xE0, _ADOBE})
"""JFIF's and Adobe's segments, which say what the colours mean."""
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"


@dataclass(frozen=True)
class _Frame:
    """What the frame's segment says; a sequential picture may have all its components in one scan."""

    width: int = 0
    height: int = 0
    components: int = 0
    code: int = 0

    @property
    def sequential(self) -> bool:
        return self.code in _SEQUENTIAL

    @property
    def most_scans(self) -> int:
        return max(1, min(MOST_SCANS, MOST_SCANNED_PIXELS // max(self.width * self.height, 1)))


def read(data: bytes) -> Header:
    """Read a header, up to the first scan."""
    kept, told, frame, position = [data[:2]], dict[bytes, bytes](), _Frame(), 2
    for _ in range(MOST_SEGMENTS):
        found = _MARKER.search(data, position)
        if found is None or (code := found[1][0]) == _END:
            break
        start = found.start()
        if code == _SCAN:
            return _header(data, start, kept, told, frame)
        position = found.end() if code in _ALONE else start + 2 + struct.unpack_from(">H", data, start + 2)[0]
        if code == _EXIF_OR_XMP:
            body = data[start + 4 : position]
            told |= {mark: body for mark in (_EXIF, _XMP) if body.startswith(mark) and mark not in told}
        elif code not in _APPS - _DECIDING and code != _COMMENT and code not in _ALONE:
            kept.append(data[start:position])
        if code in _FRAMES:
            height, width, components = struct.unpack_from(">HHB", data, start + 5)
            frame = _Frame(width, height, components, code)
    else:
        raise PictureError(f"the JPEG has more than {MOST_SEGMENTS} segments before its first scan")
    raise PictureError("the picture is broken or truncated: the JPEG has no scan")


def _header(data: bytes, start: int, kept: list[bytes], told: dict[bytes, bytes], frame: _Frame) -> Header:
    orientation = orientation_of(told.get(_EXIF, b""), told.get(_XMP, b""))
    usual = frame.code == _BASELINE and frame.components == 3 and not any(each[1] == _ADOBE for each in kept[1:])
    return Header("JPEG", frame.width, frame.height, partial(_bare, data, start, kept, frame), orientation, usual)


def _bare(data: bytes, start: int, kept: list[bytes], frame: _Frame) -> bytes:
    if not (frame.sequential and data[start + 4] == frame.components):  # else decoders stop after the first scan
        _require_few_scans(
            data, start, frame.most_scans
        )  # a gigabyte per second: here, not where many headers are read
    return b"".join((*kept, memoryview(data)[start:]))


def _require_few_scans(data: bytes, start: int, most: int) -> None:
    if data.count(b"\xff\xda", start) <= most:  # quick; the bytes also occur inside segments and behind the picture
        return
    scans, position = 0, start
    for _ in range(MOST_SEGMENTS):
        found = _BETWEEN_SCANS.search(data, position)
        if found is None or found[1][0] == _END:
            return
        scans += found[1][0] == _SCAN
        if scans > most:
            raise PictureError(f"the JPEG has more than {most} scans, at most {most} are allowed at its size")
        length = data[found.end() : found.end() + 2]
        position = found.end() + int.from_bytes(length, "big")
    raise PictureError(f"the JPEG has more than {MOST_SEGMENTS} segments between its scans")
