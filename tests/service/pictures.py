"""Pictures to send, and what comes back."""

import struct
import zlib
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.conftest import picture_bytes, shape_picture

URL = "/v1/models/tiny/predict"


def shape(label: int, seed: int = 5) -> Image.Image:
    return shape_picture(label, np.random.default_rng(seed))


DISC, SQUARE, STRIPES = (picture_bytes(shape(label)) for label in range(3))


def labels(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [prediction["top"][0]["label"] for prediction in answer.json()["predictions"]]


def refusal(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()


def png_of_zeros(side: int) -> bytes:
    """A black and white picture of any size in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compressobj(9)
    packed = b"".join(rows.compress(bytes(1 + side // 8)) for _ in range(side)) + rows.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
