"""JPEGs decode to Pillow's pixels, whoever decodes them."""

import io
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from common.pictures import PictureError, open_picture

KINDS: dict[str, dict[str, Any]] = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True},
    "RGB": {"keep_rgb": True},
    "coarse": {"quality": 5},
    "restart markers": {"restart_marker_blocks": 3},
}


def jpeg(width: int, height: int, **options: Any) -> bytes:
    generator = np.random.default_rng(width * height)
    small = Image.fromarray(generator.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    data = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(data, "JPEG", **options)
    return data.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (17, 9), (64, 48), (333, 251)])
def test_pixels_are_pillows_to_the_bit(kind: str, size: tuple[int, int]) -> None:
    data = jpeg(*size, **KINDS[kind])
    by_pillow = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(open_picture(data)), by_pillow)
    assert np.array_equal(simplejpeg.decode_jpeg(data), by_pillow), "it was the other decoder that was asked"


def test_a_truncated_one_is_refused() -> None:
    data = jpeg(64, 48)
    for end in (len(data) // 2, len(data) - 30):
        with pytest.raises(PictureError, match="broken or truncated"):
            open_picture(data[:end])
