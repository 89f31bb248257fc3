"""The common corruptions of Hendrycks and Dietterich 2019 (arXiv:1903.12261): fifteen, and four more for validation.

Severities are those of the authors' ImageNet-C for pictures whose shorter side is at least 64 pixels, and of their CIFAR-10-C for
smaller ones. Everything is computed on the batch in memory; the random numbers of an image are its own. Where this differs from the
authors' code:

- frost: they lay six photographs of frost over the picture, which do not come along here; ridges of fractal noise take their place.
- spatter: edges are those of a Sobel filter instead of Canny's, distances to them chamfer distances.
- elastic_transform: the affine map and the displacement are one interpolation instead of two.
- glass_blur does what the authors' code does, by which their files were made, not what it was meant to do: its line that swaps two
  pixels works on numpy views, so that both places end up with the neighbour's pixel. A true swap would be weaker.
- Only pixelate and jpeg_compression round to 8 bits, for what they do is defined on 8 bits.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal, get_args

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from attacks.draws import Draws
from attacks.registry import register_transform

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
    """One of the common corruptions; see the module for what differs from the authors' code."""

    name: Annotated[Corruption, Field(description="which corruption")]
    severity: Annotated[int, Field(ge=1, le=5, description="from 1, mild, to 5")]

    @property
    def title(self) -> str:
        """For example "gaussian noise 3"."""
        return f"{self.name.replace('_', ' ')} {self.severity}"

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Corrupt images (N, C, H, W) in [0, 1], with one or three channels.

        Raises:
            ValueError: a side is shorter than 16 pixels, or there are other numbers of channels.
        """
        _, channels, height, width = images.shape
        if channels not in {1, 3} or min(height, width) < LEAST_SIDE:
            raise ValueError(
                f"{self.name} needs 1 or 3 channels and sides of at least {LEAST_SIDE} pixels, got {tuple(images.shape[1:])}"
            )
        small = min(height, width) < SMALL
        strength = _STRENGTHS[self.name][small][self.severity - 1]
        return _CORRUPT[self.name](images, strength, draws).clamp(0, 1)


Strength = Sequence[float]


# Noise


def _gaussian_noise(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    return images + strength[0] * draws.normal(images)


def _shot_noise(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    return _poisson(images * strength[0], int(strength[0]), draws).to(images) / strength[0]


def _poisson(rates: Tensor, largest: int, draws: Draws) -> Tensor:
    """Counts (N, ...) of rates up to a largest: those of the rate's whole part, and independently those of the rest."""
    whole = rates.double().floor()
    table = _poisson_table(largest).to(rates.device)
    counts = torch.searchsorted(table.view(-1), whole + draws.stream(0).uniform(whole), right=True)
    counts -= whole.long() * table.shape[1]
    rest, above = rates - whole, draws.stream(1).uniform(whole)
    chance = torch.exp(-rest)
    for count in range(1, 12):  # more than 11 have odds of 1e-9
        above -= chance
        counts += above >= 0
        chance = chance * rest / count
    return counts


@cache
def _poisson_table(largest: int) -> Tensor:
    """Row n holds n plus the odds of at most 0, 1, ... counts at the rate n, float64: one sorted table for all whole rates."""
    rates = torch.arange(largest + 1, dtype=torch.float64)[:, None]
    counts = torch.arange(largest + 10 * math.isqrt(largest) + 20, dtype=torch.float64)
    odds = torch.exp(torch.special.xlogy(counts, rates) - rates - torch.lgamma(counts + 1))
    return rates + odds.cumsum(1).clamp(max=1)


def _impulse_noise(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    drawn = draws.uniform(images)
    salted = torch.where(drawn < strength[0], 1.0, images)
    return torch.where(drawn < strength[0] / 2, 0.0, salted)


def _speckle_noise(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    return images + images * strength[0] * draws.normal(images)


# Blur


def _convolve(images: Tensor, kernel: Tensor, padding: str) -> Tensor:
    """Correlate every channel with a kernel (h, w) of odd sides; the picture is continued as `padding` says."""
    h, w = kernel.shape
    flat = F.pad(images.flatten(0, 1).unsqueeze(1), (w // 2, w // 2, h // 2, h // 2), mode=padding)
    return F.conv2d(flat, kernel.to(images)[None, None]).view_as(images)


def _gaussian(images: Tensor, sigma: float, *, truncate: float = 4, mirrored: bool = False) -> Tensor:
    """Blur with a Gaussian of `sigma` pixels, cut off at `truncate` sigmas; beyond its border the picture is even, or mirrored."""
    if not (radius := int(truncate * sigma + 0.5)):
        return images
    down, across = (_blur_matrix(size, sigma, radius, mirrored).to(images) for size in images.shape[-2:])
    return down @ images @ across.T


def _blur_matrix(size: int, sigma: float, radius: int, mirrored: bool) -> Tensor:
    """What each of `size` places in a line takes from each, (size, size): as fast for wide Gaussians as for narrow ones."""
    steps = torch.arange(-radius, radius + 1)
    taps = torch.exp(-0.5 * (steps / sigma).double() ** 2)
    places = torch.arange(size)[:, None] + steps
    if mirrored:
        places = torch.minimum(places % (2 * size), 2 * size - 1 - places % (2 * size))
    taps = (taps / taps.sum()).expand(size, -1)
    return torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, places.clamp(0, size - 1), taps)


def _gaussian_blur(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    return _gaussian(images, strength[0])


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
    return _convolve(images, kernel, "reflect")


def _glass_blur(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    """Blur, put a neighbour's pixel in the place of each one after the other, blur."""
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
    places = torch.from_numpy(sources).to(images.device).view(count, 1, -1).expand(-1, channels, -1)
    return _gaussian(_gaussian(images, sigma).flatten(2).gather(2, places).view_as(images), sigma)


def _angles(images: Tensor, low: float, high: float, draws: Draws) -> Tensor:
    """Draw an angle in degrees for each image, (N,) float64 in radians."""
    drawn = draws.uniform(images[:, 0, 0, 0].double())
    return torch.deg2rad(low + (high - low) * drawn)


def _streak(images: Tensor, radius: float, sigma: float, angles: Tensor) -> Tensor:
    """Blur along a line that leads from each place in one direction, as ImageMagick's motion blur does."""
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


def _motion_blur(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    return _streak(images, strength[0], strength[1], _angles(images, -45, 45, draws))


def _zoom(images: Tensor, factor: float) -> Tensor:
    """Enlarge the middle of pictures to their size, bilinearly."""
    height, width = images.shape[-2:]
    inner = [math.ceil(side / factor) for side in (height, width)]
    top, left = ((side - part) // 2 for side, part in zip((height, width), inner, strict=True))
    middle = images[..., top : top + inner[0], left : left + inner[1]]
    sizes = [max(side, round(part * factor)) for side, part in zip((height, width), inner, strict=True)]
    large = F.interpolate(middle, sizes, mode="bilinear", align_corners=True)
    top, left = (large.shape[-2] - height) // 2, (large.shape[-1] - width) // 2
    return large[..., top : top + height, left : left + width]


def _zoom_blur(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    """Mean of the picture and of its enlargements from 1 to below a largest factor, by a step."""
    largest, step = strength
    factors = np.arange(1, largest, step).tolist()
    total = images.clone()
    for factor in factors:
        total += _zoom(images, factor)
    return total / (len(factors) + 1)


# Weather


def _grey(images: Tensor) -> Tensor:
    """Luminance (ITU-R BT.601), (N, 1, H, W)."""
    if images.shape[1] == 1:
        return images
    return (images * images.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


def _snow(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    mean, deviation, zoom, threshold, radius, sigma, share = strength
    flakes = _zoom(mean + deviation * draws.stream(0).normal(images[:, :1]), zoom)
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1)
    flakes = _streak(flakes, radius, sigma, _angles(images, -135, -45, draws.stream(1)))
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


def _fog(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    density, decay = strength
    brightest = images.amax((1, 2, 3), keepdim=True)
    return (images + density * _plasma(images, decay, draws)) * brightest / (brightest + density)


FROST_COLOUR = (0.72, 0.82, 0.92)
"""Of the ridges that stand for frost, red, green, blue."""


def _frost(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    ridges = (1 - (2 * _plasma(images, 1.3, draws.stream(0)) - 1).abs()) ** 2
    ice = 0.35 + 0.65 * (0.7 * ridges + 0.3 * _plasma(images, 1.7, draws.stream(1)))
    colour = images.new_tensor(FROST_COLOUR)[:, None, None]
    return strength[0] * images + strength[1] * ice * (colour if images.shape[1] == 3 else colour.mean())


# Colour and light


def _brightness(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    """Raise the value of HSV; hue and saturation stay, so that all channels grow alike."""
    value = images.amax(1, keepdim=True)
    raised = (value + strength[0]).clamp(max=1)
    return torch.where(value > 0, images * raised / value.clamp(min=1e-12), raised)


def _saturate(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    """Scale and shift the saturation of HSV; a grey pixel's hue is red, as usual, and one channel has no hue."""
    if images.shape[1] == 1:
        raise ValueError("saturate needs 3 channels, got 1")
    factor, shift = strength
    value = images.amax(1, keepdim=True)
    spread = value - images
    saturation = spread.amax(1, keepdim=True) / value.clamp(min=1e-12)
    wanted = (saturation * factor + shift).clamp(0, 1)
    reddish = value * images.new_tensor([0, 1, 1])[:, None, None]
    grey = saturation == 0
    return value - torch.where(grey, reddish, spread / saturation.clamp(min=1e-12)) * wanted


def _contrast(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    means = images.mean((2, 3), keepdim=True)
    return (images - means) * strength[0] + means


# Digital


def _through_pil(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    pictures = [change(Image.fromarray(each if each.shape[2] == 3 else each[..., 0])) for each in pixels]
    changed = np.stack([np.atleast_3d(np.asarray(each)) for each in pictures])
    return torch.from_numpy(changed).permute(0, 3, 1, 2).to(images) / 255


def _jpeg_compression(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    def compress(picture: Image.Image) -> Image.Image:
        written = io.BytesIO()
        picture.save(written, "JPEG", quality=int(strength[0]))
        return Image.open(written)

    return _through_pil(images, compress)


def _pixelate(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    def coarsen(picture: Image.Image) -> Image.Image:
        small = (int(picture.width * strength[0]), int(picture.height * strength[0]))
        return picture.resize(small, Image.Resampling.BOX).resize(picture.size, Image.Resampling.BOX)

    return _through_pil(images, coarsen)


def _elastic_transform(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    """Shift three points at random and all others with them, and let every pixel wander smoothly."""
    reach, sigma, jitter = strength
    count, _, height, width = images.shape
    wandering = [
        _gaussian(2 * draws.stream(axis).uniform(images[:, :1]).double() - 1, sigma, truncate=3, mirrored=True) * reach
        for axis in range(2)
    ]
    side = min(height, width) // 3
    across, down = width // 2, height // 2
    points = torch.tensor([[side, side], [side, -side], [-side, -side]], dtype=torch.float64)
    points = torch.cat([points + torch.tensor([across, down]), torch.ones(3, 1)], 1).to(images.device)
    targets = points.expand(count, -1, -1).clone()
    drawn = draws.stream(2).uniform(targets[..., :2])
    targets[..., :2] += (2 * drawn - 1) * jitter
    # (x, y, 1) @ back leads from a place of the result to where it comes from.
    back = torch.linalg.solve(targets, points.expand(count, -1, -1))
    y, x = torch.meshgrid(*(torch.arange(each, device=images.device) for each in (height, width)), indexing="ij")
    places = torch.stack(
        [x + wandering[0][:, 0], y + wandering[1][:, 0], torch.ones(count, 1, 1).to(x).expand(-1, height, width)], -1
    )
    found = (places.flatten(1, 2) @ back).view(count, height, width, 3)[..., :2]
    grid = 2 * found / found.new_tensor([width - 1, height - 1]) - 1
    return F.grid_sample(images, grid.to(images), mode="bilinear", padding_mode="reflection", align_corners=True)


WATER, MUD = (175 / 255, 238 / 255, 238 / 255), (63 / 255, 42 / 255, 20 / 255)


def _spatter(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    """Drops of water that shine at their edges, or from severity 4 on, mud."""
    mean, deviation, sigma, threshold, share, muddy = strength
    liquid = _gaussian(mean + deviation * draws.normal(images[:, :1]), sigma)
    liquid = torch.where(liquid < threshold, 0.0, liquid)
    colour = images.new_tensor(MUD if muddy else WATER)[:, None, None]
    colour = colour if images.shape[1] == 3 else colour.mean()
    if muddy:
        cover = _gaussian((liquid > threshold).to(images), share)
        cover = torch.where(cover < 0.8, 0.0, cover)
        return images * (1 - cover) + colour * cover
    shine = liquid * _relief(liquid)
    return images + share * shine / shine.amax((1, 2, 3), keepdim=True).clamp(min=1e-12) * colour


def _relief(liquid: Tensor) -> Tensor:
    """Emboss the distances to the edges of drops, after equalising their histogram; in [0, 1]."""
    sobel = liquid.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    edges = _convolve(liquid, sobel, "replicate").abs() + _convolve(liquid, sobel.T, "replicate").abs() > 0.4
    distances = torch.where(edges, 0.0, 20.0)
    straight, diagonal = liquid.new_tensor([1.0]), liquid.new_tensor([2**0.5])
    for _ in range(20):
        padded = F.pad(distances, (1, 1, 1, 1), value=20.0)
        near = [padded[..., 1:-1, :-2], padded[..., 1:-1, 2:], padded[..., :-2, 1:-1], padded[..., 2:, 1:-1]]
        far = [padded[..., :-2, :-2], padded[..., :-2, 2:], padded[..., 2:, :-2], padded[..., 2:, 2:]]
        around = torch.stack([*(each + straight for each in near), *(each + diagonal for each in far)]).amin(0)
        distances = torch.minimum(distances, around)
    box = liquid.new_full((3, 3), 1 / 9)
    flat = (_convolve(distances, box, "replicate") + 1e-3).floor().flatten(1)  # whole pixels: equal ones stay equal
    order = flat.sort(1).values
    ranks = torch.searchsorted(order, flat.contiguous(), right=True) / flat.shape[1]  # equalised
    lowest = ranks.amin(1, keepdim=True)
    equal = ((ranks - lowest) / (1 - lowest).clamp(min=1e-12)).view_as(liquid).to(liquid)
    emboss = liquid.new_tensor([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    return _convolve(_convolve(equal, emboss, "replicate").clamp(0, 1), box, "replicate")


_CORRUPT: dict[str, Callable[[Tensor, Strength, Draws], Tensor]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
    "speckle_noise": _speckle_noise,
    "gaussian_blur": _gaussian_blur,
    "spatter": _spatter,
    "saturate": _saturate,
}


def _each(*values: float) -> list[Strength]:
    return [(value,) for value in values]


_STRENGTHS: dict[str, tuple[list[Strength], list[Strength]]] = {
    "gaussian_noise": (_each(0.08, 0.12, 0.18, 0.26, 0.38), _each(0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (_each(60, 25, 12, 5, 3), _each(500, 250, 100, 75, 50)),
    "impulse_noise": (_each(0.03, 0.06, 0.09, 0.17, 0.27), _each(0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus_blur": (
        [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
        [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
    ),
    "glass_blur": (
        [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
        [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
    ),
    "motion_blur": (
        [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
        [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
    ),
    "zoom_blur": (
        [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)],
        [(1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)],
    ),
    "snow": (
        [
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ],
        [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ],
    ),
    "frost": (
        [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)],
        [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
    ),
    "fog": (
        [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
        [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
    ),
    "brightness": (_each(0.1, 0.2, 0.3, 0.4, 0.5), _each(0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (_each(0.4, 0.3, 0.2, 0.1, 0.05), _each(0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic_transform": (
        [(488, 170.8, 24.4), (488, 19.52, 48.8), (12.2, 2.44, 4.88), (17.08, 2.44, 4.88), (29.28, 2.44, 4.88)],
        [(0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6), (3.2, 0.96, 0.96)],
    ),
    "pixelate": (_each(0.6, 0.5, 0.4, 0.3, 0.25), _each(0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": (_each(25, 18, 15, 10, 7), _each(80, 65, 58, 50, 40)),
    "speckle_noise": (_each(0.15, 0.2, 0.35, 0.45, 0.6), _each(0.06, 0.1, 0.12, 0.16, 0.2)),
    "gaussian_blur": (_each(1, 2, 3, 4, 6), _each(0.4, 0.6, 0.7, 0.8, 1)),
    "spatter": (
        [
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ],
        [
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ],
    ),
    "saturate": (
        [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)],
        [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)],
    ),
}
"""Parameters of the five severities, of ImageNet-C and of CIFAR-10-C."""
