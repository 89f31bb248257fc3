"""Turned and mirrored pictures: the zero-shot changes of the SAN paper (arXiv:2004.13621, Sec. 5.4)."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacks.draws import Draws
from attacks.registry import register_transform


@register_transform("rotation")
@dataclass(frozen=True, kw_only=True)
class Rotation:
    """Turn pictures clockwise about their centre.

    Multiples of 90 degrees are exact permutations of the pixels of square images. Other angles are interpolated bilinearly, and
    pixels from outside the picture have the value `fill`.
    """

    degrees: Annotated[float, Field(ge=-360, le=360, allow_inf_nan=False, description="clockwise angle")]
    fill: Annotated[float, Field(ge=0, le=1, description="pixel value outside the picture")] = 0.0

    @property
    def title(self) -> str:
        """For example "rotation 90"."""
        return f"rotation {self.degrees:g}"

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Turn images (N, C, H, W); draws are not used.

        Raises:
            ValueError: the images are not square, and a quarter turn would change their shape.
        """
        quarters, rest = divmod(self.degrees, 90)
        if rest:
            # Imported here, because torchvision takes seconds.
            from torchvision.transforms.v2.functional import InterpolationMode, rotate  # noqa: PLC0415

            return rotate(images, -self.degrees, InterpolationMode.BILINEAR, fill=[self.fill])
        if quarters % 2 and images.shape[-1] != images.shape[-2]:
            raise ValueError(f"a quarter turn needs square images, got {tuple(images.shape[-2:])}")
        return torch.rot90(images, -int(quarters), (-2, -1))


@register_transform("flip")
@dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirror pictures; upside-down is not a rotation by 180 degrees."""

    direction: Annotated[Literal["upside_down", "left_right"], Field(description="which way")]

    @property
    def title(self) -> str:
        """For example "flip upside-down"."""
        return f"flip {self.direction.replace('_', '-')}"

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Mirror images (N, C, H, W); draws are not used."""
        return images.flip(-2 if self.direction == "upside_down" else -1)
