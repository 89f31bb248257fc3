"""The common corruptions of Hendrycks and Dietterich 2019 (arXiv:1903.12261): fifteen, and four more for validation.

Severities are those of the authors' ImageNet-C for pictures whose shorter side is at least 64 pixels, and of their CIFAR-10-C for
smaller ones. Batches are corrupted in memory; each image has its own random numbers. Differences from the authors' code:

- frost: the authors overlay six photographs of frost, which are not included here; ridges of fractal noise replace them.
- spatter: edges come from a Sobel filter instead of Canny's, and distances to them are chamfer distances.
- elastic_transform: the affine map and the displacement are one interpolation instead of two.
- glass_blur does what the authors' code does, which made their files, not what it was meant to do: its line that swaps two pixels
  works on numpy views, so that both pixels get the neighbour's value. A true swap would be weaker.
- Only pixelate and jpeg_compression round to 8 bits, because they are defined on 8 bits.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import Field
from torch import Tensor

from attacks.draws import Draws
from attacks.registry import register_transform
from attacks.transforms.corruptions import blur, digital, noise, weather
from attacks.transforms.corruptions.effects import EFFECTS

Corruption = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
    "speckle_noise",
    "gaussian_blur",
    "spatter",
    "saturate",
]

NAMES: tuple[str, ...] = get_args(Corruption)
CORRUPTIONS, EXTRA_CORRUPTIONS = NAMES[:15], NAMES[15:]

SMALL = 64
"""Pictures with a shorter side below this, in pixels, get the severities of CIFAR-10-C."""

LEAST_SIDE = 16
"""Shortest side that can be corrupted, pixels."""


@register_transform("corruption")
@dataclass(frozen=True, kw_only=True)
class CommonCorruption:
    """One of the common corruptions; the module lists the differences from the authors' code."""

    name: Annotated[Corruption, Field(description="which corruption")]
    severity: Annotated[int, Field(ge=1, le=5, description="from 1, mild, to 5")]

    @property
    def title(self) -> str:
        """For example "gaussian noise 3"."""
        return f"{self.name.replace('_', ' ')} {self.severity}"

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Corrupt images (N, C, H, W) in [0, 1], with one or three channels.

        Raises:
            ValueError: a side is shorter than 16 pixels, or the number of channels is neither 1 nor 3.
        """
        _, channels, height, width = images.shape
        if channels not in {1, 3} or min(height, width) < LEAST_SIDE:
            raise ValueError(
                f"{self.name} needs 1 or 3 channels and sides of at least {LEAST_SIDE} pixels, got {tuple(images.shape[1:])}"
            )
        effect = EFFECTS[self.name]
        severities = effect.cifar if min(height, width) < SMALL else effect.imagenet
        return effect.corrupt(images, severities[self.severity - 1], draws).clamp(0, 1)


__all__ = ["CORRUPTIONS", "EXTRA_CORRUPTIONS", "NAMES", "CommonCorruption", "blur", "digital", "noise", "weather"]
