"""Attention drawn over the image a network sees."""

import io
import textwrap
from base64 import b64encode
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from models import AttentionMap, Place

PANEL = 240
"""Side of a panel, pixels."""
_COLUMNS = 5
_GAP = 10
_LINE = 18
_OPACITY = 0.6
_DARKEST = 80
"""What black becomes under a map, so that the colours can be told apart there too."""
_INK, _PAPER, _SOFT = (29, 36, 48), (255, 255, 255), (103, 112, 131)

_COLOURS = np.array(
    [
        (68, 1, 84),
        (71, 45, 123),
        (59, 82, 139),
        (44, 114, 142),
        (33, 144, 140),
        (39, 173, 129),
        (93, 200, 99),
        (170, 220, 50),
        (253, 231, 37),
    ]
)
"""Nine points of viridis (van der Walt, Smith, 2015, CC0): from 0 to 1 its lightness grows evenly."""

Floats = NDArray[np.floating]


def colours(values: Floats) -> NDArray[np.uint8]:
    """Colour values in [0, 1], from dark blue to yellow: (...) -> (..., 3)."""
    anchors = np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(values, anchors, _COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, -1).round().astype(np.uint8)


def panel(image: Tensor) -> Image.Image:
    """Enlarge or reduce an image (3, H, W) in [0, 1] to a panel; enlarged pixels stay squares."""
    pixels = (image.cpu().numpy().transpose(1, 2, 0) * 255).round().astype(np.uint8)
    resampling = Image.Resampling.NEAREST if max(pixels.shape) < PANEL else Image.Resampling.LANCZOS
    return Image.fromarray(pixels).resize((PANEL, PANEL), resampling)


def overlays(image: Tensor, attention: AttentionMap, query: Place | None) -> list[Image.Image]:
    """Draw each map of one image in colour over its grey, with the sampled points and a cross at the query.

    Args:
        image: (3, H, W) in [0, 1].
        attention: its first row is the image's.
        query: fractions (y, x) of the image.
    """
    picture = panel(image)
    drawn: list[Image.Image] = []
    for index, values in enumerate(attention.maps[0].nan_to_num().cpu().numpy()):
        drawn.append(over(picture, values))
        if attention.points is not None and attention.scores is not None:
            _draw_points(drawn[-1], attention.points[0, index], attention.scores[0, index])
        mark(drawn[-1], query)
    return drawn


def over(picture: Image.Image, values: Floats) -> Image.Image:
    """Lay a map (H, W) in [0, 1] in colour over a picture's grey."""
    grey = _DARKEST + np.asarray(picture.convert("L"))[..., None] * (1 - _DARKEST / 255)
    smooth = Image.fromarray(values).resize(picture.size, Image.Resampling.BILINEAR)
    mixed = _OPACITY * colours(np.asarray(smooth)) + (1 - _OPACITY) * grey
    return Image.fromarray(mixed.round().astype(np.uint8))


def over_picture(png: bytes, grid: Sequence[Sequence[float]]) -> bytes:
    """Lay a map, rows of cells in [0, 1], over a picture; both are PNG files."""
    written = io.BytesIO()
    over(Image.open(io.BytesIO(png)), np.asarray(grid, np.float32)).save(written, "PNG")
    return written.getvalue()


def _draw_points(picture: Image.Image, points: Tensor, scores: Tensor) -> None:
    """Draw a dot where each key was sampled, the larger and yellower the higher its score; high scores lie on top."""
    draw = ImageDraw.Draw(picture)
    shares = (scores / scores.max()).nan_to_num().cpu().numpy()
    largest = PANEL / 16 / max(1, len(scores) / 64) ** 0.5  # so that many points do not hide the image
    pixels = points.nan_to_num().cpu().numpy() * PANEL
    for index in shares.argsort():
        y, x = pixels[index].tolist()
        fill = tuple(colours(shares[index]).tolist())
        draw.circle((x, y), 1.5 + largest / 2 * float(shares[index]), fill=fill, outline=_PAPER)


def mark(picture: Image.Image, query: Place | None) -> None:
    """Draw a cross at the query, if there is one."""
    if query is None:
        return
    y, x = (each * (PANEL - 1) for each in query)
    draw = ImageDraw.Draw(picture)
    for colour, width in ((_PAPER, 5), ((214, 40, 40), 2)):
        draw.line((x - 8, y, x + 8, y), colour, width)
        draw.line((x, y - 8, x, y + 8), colour, width)


def grid(title: str, facts: str, panels: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Lay out panels with captions under a title, and a scale of the colours below.

    Args:
        title: the first line.
        facts: wrapped below it.
        panels: captions and pictures, row by row.
    """
    columns = max(2, min(_COLUMNS, len(panels)))
    rows = -(-len(panels) // columns)
    width = columns * (PANEL + _GAP) + _GAP
    lines = [(line, _INK) for line in _wrapped(title, width)] + [(line, _SOFT) for line in _wrapped(facts, width)]
    top, row = _GAP + len(lines) * _LINE + _GAP, PANEL + _LINE + _GAP
    sheet = Image.new("RGB", (width, top + rows * row + _LINE + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for index, (line, colour) in enumerate(lines):
        draw.text((_GAP, _GAP + index * _LINE), line, colour, font)
    for index, (caption, picture) in enumerate(panels):
        x, y = _GAP + index % columns * (PANEL + _GAP), top + index // columns * row
        draw.text((x, y), caption, _INK, font)
        sheet.paste(picture, (x, y + _LINE))
    _draw_scale(sheet, draw, font)
    return sheet


def _draw_scale(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> None:
    y, left, length = sheet.height - _LINE - _GAP, _GAP + 16, 160
    bar = np.broadcast_to(colours(np.linspace(0, 1, length)), (12, length, 3))
    draw.text((_GAP, y), "0", _SOFT, font)
    sheet.paste(Image.fromarray(bar.copy()), (left, y + 2))
    draw.text((left + length + 6, y), "the map's maximum", _SOFT, font)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width // 7, max_lines=3, placeholder=" ...")


def png(picture: Image.Image) -> bytes:
    """Encode a picture."""
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def data_uri(picture: Image.Image) -> str:
    """Encode a picture as a PNG that a page can hold in `src`."""
    return f"data:image/png;base64,{b64encode(png(picture)).decode()}"
