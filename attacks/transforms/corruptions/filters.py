"""Operations that several corruptions use: convolutions, motion blur and enlargement of images (N, C, H, W)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.draws import Draws


def convolve(images: Tensor, kernel: Tensor, padding: str) -> Tensor:
    """Correlate every channel with a kernel (h, w) with odd sides; `padding` continues the picture beyond its border."""
    h, w = kernel.shape
    flat = F.pad(images.flatten(0, 1).unsqueeze(1), (w // 2, w // 2, h // 2, h // 2), mode=padding)
    return F.conv2d(flat, kernel.to(images)[None, None]).view_as(images)


def gaussian(images: Tensor, sigma: float, *, truncate: float = 4, mirrored: bool = False) -> Tensor:
    """Blur with a Gaussian of `sigma` pixels, cut off at `truncate` sigmas; beyond the border, pixels are repeated or mirrored."""
    if not (radius := int(truncate * sigma + 0.5)):
        return images
    down, across = (_blur_matrix(size, sigma, radius, mirrored).to(images) for size in images.shape[-2:])
    return down @ images @ across.T


def _blur_matrix(size: int, sigma: float, radius: int, mirrored: bool) -> Tensor:
    """Weight of each pixel in each blurred pixel of a line, (size, size): wide Gaussians are as fast as narrow ones."""
    steps = torch.arange(-radius, radius + 1)
    taps = torch.exp(-0.5 * (steps / sigma).double() ** 2)
    pixels = torch.arange(size)[:, None] + steps
    if mirrored:
        pixels = torch.minimum(pixels % (2 * size), 2 * size - 1 - pixels % (2 * size))
    taps = (taps / taps.sum()).expand(size, -1)
    return torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, pixels.clamp(0, size - 1), taps)


def angles(images: Tensor, low: float, high: float, draws: Draws) -> Tensor:
    """Draw an angle for each image between two angles in degrees; returns radians, (N,) float64."""
    drawn = draws.uniform(images[:, 0, 0, 0].double())
    return torch.deg2rad(low + (high - low) * drawn)


def streak(images: Tensor, radius: float, sigma: float, angles: Tensor) -> Tensor:
    """Blur along a line in one direction from each pixel, as ImageMagick's motion blur does."""
    width = 2 * int(radius) + 1
    taps = torch.exp(-0.5 * (torch.arange(width, dtype=torch.float64) / sigma) ** 2)
    taps = taps / taps.sum()
    rows, columns = (torch.arange(size, device=images.device)[None] for size in images.shape[-2:])
    total = torch.zeros_like(images)
    every = torch.arange(len(images), device=images.device)[:, None, None]
    for step, tap in enumerate(taps.tolist()):
        down, right = (torch.ceil(step * part(angles) - 0.5).long()[:, None] for part in (torch.sin, torch.cos))
        ys, xs = (rows + down).clamp(0, rows.shape[1] - 1), (columns + right).clamp(0, columns.shape[1] - 1)
        total += tap * images[every, :, ys[:, :, None], xs[:, None, :]].permute(0, 3, 1, 2)
    return total


def zoom(images: Tensor, factor: float) -> Tensor:
    """Enlarge the middle of pictures to their full size, bilinearly."""
    height, width = images.shape[-2:]
    inner = [math.ceil(side / factor) for side in (height, width)]
    top, left = ((side - part) // 2 for side, part in zip((height, width), inner, strict=True))
    middle = images[..., top : top + inner[0], left : left + inner[1]]
    sizes = [max(side, round(part * factor)) for side, part in zip((height, width), inner, strict=True)]
    large = F.interpolate(middle, sizes, mode="bilinear", align_corners=True)
    top, left = (large.shape[-2] - height) // 2, (large.shape[-1] - width) // 2
    return large[..., top : top + height, left : left + width]
