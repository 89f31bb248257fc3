"""Pictures to send: JPEGs of 50 to 130 KB with the spectrum of photographs, and broken ones; the same for the same seed."""

import io
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SIZES = ((500, 375), (512, 384), (375, 500), (640, 427), (640, 480))
"""Width and height, pixels."""

QUALITY = 90
PROGRESSIVE_EVERY = 4
"""One picture of so many is a progressive JPEG."""

Field = NDArray[np.float64]


def jpegs(count: int, seed: int = 0) -> list[bytes]:
    """Draw pictures of different sizes and contents.

    Args:
        count: how many.
        seed: of the random draws.
    """
    generator = np.random.default_rng(seed)
    pictures = [picture(size, generator) for size in islice(cycle(SIZES), count)]
    return [encode(each, progressive=index % PROGRESSIVE_EVERY == 3) for index, each in enumerate(pictures)]


def broken(whole: list[bytes]) -> list[bytes]:
    """Break JPEGs, by turns: the end is missing, or the middle of the header is something else."""
    return [each[: len(each) // 2] if index % 2 else each[:64] + bytes(256) for index, each in enumerate(whole)]


def picture(size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    """Draw a picture: light from one side, soft shapes, textures at every scale, a sensor's noise."""
    width, height = size
    light = np.linspace(-1, 1, width)[None, :] * generator.normal() + np.linspace(-1, 1, height)[:, None]
    luminance = 118 + 25 * light + 34 * clouds(size, generator) + generator.normal(0, 6.5, (height, width))
    tints = [luminance + 12 * clouds(size, generator) for _ in range(3)]
    pixels = np.stack(tints, axis=-1) + shapes(size, generator)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def clouds(size: tuple[int, int], generator: np.random.Generator) -> Field:
    """Add noise of all octaves, each twice as coarse as the last and a little less than twice as strong, as in photographs.

    Returns:
        (height, width), with mean 0 and deviation 1.
    """
    width, height = size
    total = np.zeros((height, width))
    cell, strength = 1, 1.0
    while cell < min(size):
        grid = generator.normal(size=(height // cell + 2, width // cell + 2)).astype(np.float32)
        total += strength * np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC))
        cell, strength = 2 * cell, 1.4 * strength
    return (total - total.mean()) / total.std()


def shapes(size: tuple[int, int], generator: np.random.Generator) -> Field:
    """Draw ellipses and boxes with slightly soft edges; returns what they add to the pixels (height, width, 3)."""
    canvas = Image.new("RGB", size, (128, 128, 128))
    draw = ImageDraw.Draw(canvas)
    for index in range(12):
        x, y = generator.integers(0, size[0]), generator.integers(0, size[1])
        w, h = generator.integers(20, 160, 2)
        red, green, blue = map(int, generator.integers(70, 186, 3))
        paint = draw.ellipse if index % 2 else draw.rectangle
        paint((int(x), int(y), int(x + w), int(y + h)), fill=(red, green, blue))
    return np.asarray(canvas.filter(ImageFilter.GaussianBlur(1.0)), dtype=np.float64) - 128


def encode(image: Image.Image, *, progressive: bool = False) -> bytes:
    """Write a JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY, progressive=progressive)
    return file.getvalue()
