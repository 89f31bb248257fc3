"""Weather: snow, fog, frost."""

import math

import torch
from torch import Tensor

from attacks.draws import Draws
from attacks.transforms.corruptions.effects import Strength, effect
from attacks.transforms.corruptions.filters import angles, streak, zoom


def _grey(images: Tensor) -> Tensor:
    """Luminance (ITU-R BT.601), (N, 1, H, W)."""
    if images.shape[1] == 1:
        return images
    return (images * images.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


@effect(
    "snow",
    imagenet=[
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ],
    cifar=[
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ],
)
def _snow(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    mean, deviation, factor, threshold, radius, sigma, share = strength
    flakes = zoom(mean + deviation * draws.stream(0).normal(images[:, :1]), factor)
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1)
    flakes = streak(flakes, radius, sigma, angles(images, -135, -45, draws.stream(1)))
    pale = torch.maximum(images, _grey(images) * 1.5 + 0.5)
    return share * images + (1 - share) * pale + flakes + flakes.rot90(2, (-2, -1))


def _plasma(images: Tensor, decay: float, draws: Draws) -> Tensor:
    """Fractal noise in [0, 1] by the diamond-square algorithm (Fournier, Fussell, Carpenter 1982), (N, 1, H, W)."""
    size = 2 ** math.ceil(math.log2(max(images.shape[-2:])))
    heights = images.new_zeros(len(images), size, size)
    step, amplitude = size, 1.0
    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        drawn = draws.stream(step).uniform(corners.new_empty(len(images), 3, *corners.shape[1:]))
        drawn = amplitude * (2 * drawn - 1)
        two = corners + corners.roll(-1, 2)
        centres = (two + two.roll(-1, 1)) / 4 + drawn[:, 0]
        heights[:, half::step, half::step] = centres
        heights[:, ::step, half::step] = (two + centres + centres.roll(1, 1)) / 4 + drawn[:, 1]
        heights[:, half::step, ::step] = (corners + corners.roll(-1, 1) + centres + centres.roll(1, 2)) / 4 + drawn[
            :, 2
        ]
        step, amplitude = half, amplitude / decay**2  # the authors' deviation is the square of a number that decays
    low, high = heights.amin((1, 2), keepdim=True), heights.amax((1, 2), keepdim=True)
    scaled = (heights - low) / (high - low)
    return scaled[:, None, : images.shape[-2], : images.shape[-1]]


@effect(
    "fog",
    imagenet=[(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
    cifar=[(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
)
def _fog(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    density, decay = strength
    brightest = images.amax((1, 2, 3), keepdim=True)
    return (images + density * _plasma(images, decay, draws)) * brightest / (brightest + density)


FROST_COLOUR = (0.72, 0.82, 0.92)
"""Colour of the ridges of frost, red, green, blue."""


@effect(
    "frost",
    imagenet=[(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)],
    cifar=[(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
)
def _frost(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    ridges = (1 - (2 * _plasma(images, 1.3, draws.stream(0)) - 1).abs()) ** 2
    ice = 0.35 + 0.65 * (0.7 * ridges + 0.3 * _plasma(images, 1.7, draws.stream(1)))
    colour = images.new_tensor(FROST_COLOUR)[:, None, None]
    return strength[0] * images + strength[1] * ice * (colour if images.shape[1] == 3 else colour.mean())
