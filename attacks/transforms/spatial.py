"""Pictures turned and shifted together (Engstrom et al. 2019, arXiv:1712.02779)."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from attacks.draws import Draws
from attacks.registry import register_transform

MAX_SHIFT = 4096
"""Largest shift, pixels."""

Shift = Annotated[float, Field(ge=-MAX_SHIFT, le=MAX_SHIFT, allow_inf_nan=False)]


@register_transform("spatial")
@dataclass(frozen=True, kw_only=True)
class Spatial:
    """Turn pictures clockwise about their centre, then shift them, in one bilinear interpolation.

    Pixels from outside the picture have the value `fill`. Shifts by whole pixels without a turn are exact.
    """

    degrees: Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False, description="clockwise angle")] = 0.0
    dx: Annotated[Shift, Field(description="shift to the right, pixels")] = 0.0
    dy: Annotated[Shift, Field(description="shift downwards, pixels")] = 0.0
    fill: Annotated[float, Field(ge=0, le=1, description="pixel value outside the picture")] = 0.0

    @property
    def title(self) -> str:
        """For example "spatial 30, 3, -3"."""
        return f"spatial {self.degrees:g}, {self.dx:g}, {self.dy:g}"

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Turn and shift images (N, C, H, W); draws are not used."""
        if self.degrees == 0 and self.dx == int(self.dx) and self.dy == int(self.dy):
            return self._shifted(images, int(self.dx), int(self.dy))
        height, width = images.shape[-2:]
        cos, sin = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        # Where each pixel of the result comes from, in units of half a side, as affine_grid expects.
        origins = [
            [cos, sin * height / width, -2 * (cos * self.dx + sin * self.dy) / width],
            [-sin * width / height, cos, -2 * (cos * self.dy - sin * self.dx) / height],
        ]
        grid = F.affine_grid(images.new_tensor([origins]), [1, 1, height, width], align_corners=False)
        grid = grid.expand(len(images), -1, -1, -1)
        found = F.grid_sample(images - self.fill, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return (found + self.fill).clamp(0, 1)

    def _shifted(self, images: Tensor, dx: int, dy: int) -> Tensor:
        if abs(dx) >= images.shape[-1] or abs(dy) >= images.shape[-2]:
            return torch.full_like(images, self.fill)
        return F.pad(images, (dx, -dx, dy, -dy), value=self.fill)


def spatial_grid(side: int) -> dict[str, tuple[float, ...]]:
    """List the values of the paper's grid search (Sec. 4): 31 angles within 30 degrees, 5 x 5 shifts within a tenth of the side.

    Args:
        side: of the pictures, pixels; shifts are rounded to whole pixels.
    """
    shifts = tuple(sorted({float(round(step / 20 * side)) for step in range(-2, 3)}))
    return {"degrees": tuple(float(angle) for angle in range(-30, 31, 2)), "dx": shifts, "dy": shifts}
