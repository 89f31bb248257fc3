"""Blur: Gaussian, defocus, glass, motion, zoom."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.draws import Draws
from attacks.transforms.corruptions.effects import Strength, effect, singles
from attacks.transforms.corruptions.filters import angles, convolve, gaussian, streak, zoom


@effect(
    "gaussian_blur",
    imagenet=singles(1, 2, 3, 4, 6),
    cifar=singles(0.4, 0.6, 0.7, 0.8, 1),
)
def _gaussian_blur(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    return gaussian(images, strength[0])


@effect(
    "defocus_blur",
    imagenet=[(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
    cifar=[(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
)
def _defocus_blur(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    """Blur with a disk whose edge is smoothed."""
    radius, sigma = strength
    reach = 1 if radius <= 8 else 2  # of the smoothing
    size = math.floor(radius) + reach
    y, x = torch.meshgrid(*[torch.arange(-size, size + 1, dtype=torch.float64)] * 2, indexing="ij")
    disk = (x**2 + y**2 <= radius**2).double()
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma) ** 2)
    smoothing = torch.outer(taps, taps) / taps.sum() ** 2
    kernel = F.conv2d((disk / disk.sum())[None, None], smoothing[None, None], padding=reach)[0, 0]
    return convolve(images, kernel, "reflect")


@effect(
    "glass_blur",
    imagenet=[(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
    cifar=[(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
)
def _glass_blur(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    """Blur, replace each pixel in turn by a neighbour's, blur again."""
    sigma, reach, rounds = strength[0], int(strength[1]), int(strength[2])
    count, channels, height, width = images.shape
    shape = (rounds, height, width, 2)
    steps = (draws.integers(2 * reach, *shape) - reach).cpu().numpy()
    sources = np.tile(np.arange(height * width).reshape(height, width), (count, 1, 1))
    every = np.arange(count)
    for turn in range(rounds):
        for y in range(height - reach, reach, -1):
            for x in range(width - reach, reach, -1):
                from_y, from_x = y + steps[:, turn, y - 1, x - 1, 1], x + steps[:, turn, y - 1, x - 1, 0]
                sources[:, y, x] = sources[every, from_y, from_x]  # a copy, not a swap: see the module
    origins = torch.from_numpy(sources).to(images.device).view(count, 1, -1).expand(-1, channels, -1)
    return gaussian(gaussian(images, sigma).flatten(2).gather(2, origins).view_as(images), sigma)


@effect(
    "motion_blur",
    imagenet=[(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
    cifar=[(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
)
def _motion_blur(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    return streak(images, strength[0], strength[1], angles(images, -45, 45, draws))


@effect(
    "zoom_blur",
    imagenet=[(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)],
    cifar=[(1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)],
)
def _zoom_blur(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    """Average the picture and its enlargements by factors from 1 to below a largest one, in steps."""
    largest, step = strength
    factors = np.arange(1, largest, step).tolist()
    total = images.clone()
    for factor in factors:
        total += zoom(images, factor)
    return total / (len(factors) + 1)
