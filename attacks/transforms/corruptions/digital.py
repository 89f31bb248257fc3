"""Changes of colour and light, and artefacts of digital processing."""

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from attacks.draws import Draws
from attacks.transforms.corruptions.effects import Strength, effect, singles
from attacks.transforms.corruptions.filters import convolve, gaussian


@effect(
    "brightness",
    imagenet=singles(0.1, 0.2, 0.3, 0.4, 0.5),
    cifar=singles(0.05, 0.1, 0.15, 0.2, 0.3),
)
def _brightness(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    """Raise the value in HSV; hue and saturation do not change, so all channels grow alike."""
    value = images.amax(1, keepdim=True)
    raised = (value + strength[0]).clamp(max=1)
    return torch.where(value > 0, images * raised / value.clamp(min=1e-12), raised)


@effect(
    "saturate",
    imagenet=[(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)],
    cifar=[(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)],
)
def _saturate(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    """Scale and shift the saturation in HSV; the hue of a grey pixel is red, as usual. Images with one channel have no hue."""
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


@effect(
    "contrast",
    imagenet=singles(0.4, 0.3, 0.2, 0.1, 0.05),
    cifar=singles(0.75, 0.5, 0.4, 0.3, 0.15),
)
def _contrast(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    means = images.mean((2, 3), keepdim=True)
    return (images - means) * strength[0] + means


def _through_pil(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    pictures = [change(Image.fromarray(each if each.shape[2] == 3 else each[..., 0])) for each in pixels]
    changed = np.stack([np.atleast_3d(np.asarray(each)) for each in pictures])
    return torch.from_numpy(changed).permute(0, 3, 1, 2).to(images) / 255


@effect(
    "jpeg_compression",
    imagenet=singles(25, 18, 15, 10, 7),
    cifar=singles(80, 65, 58, 50, 40),
)
def _jpeg_compression(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    def compress(picture: Image.Image) -> Image.Image:
        written = io.BytesIO()
        picture.save(written, "JPEG", quality=int(strength[0]))
        return Image.open(written)

    return _through_pil(images, compress)


@effect(
    "pixelate",
    imagenet=singles(0.6, 0.5, 0.4, 0.3, 0.25),
    cifar=singles(0.95, 0.9, 0.85, 0.75, 0.65),
)
def _pixelate(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    def coarsen(picture: Image.Image) -> Image.Image:
        small = (int(picture.width * strength[0]), int(picture.height * strength[0]))
        return picture.resize(small, Image.Resampling.BOX).resize(picture.size, Image.Resampling.BOX)

    return _through_pil(images, coarsen)


@effect(
    "elastic_transform",
    imagenet=[(488, 170.8, 24.4), (488, 19.52, 48.8), (12.2, 2.44, 4.88), (17.08, 2.44, 4.88), (29.28, 2.44, 4.88)],
    cifar=[(0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6), (3.2, 0.96, 0.96)],
)
def _elastic_transform(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    """Apply a random affine map, given by the random shifts of three points, and a smooth random displacement of every pixel."""
    reach, sigma, jitter = strength
    count, _, height, width = images.shape
    wandering = [
        gaussian(2 * draws.stream(axis).uniform(images[:, :1]).double() - 1, sigma, truncate=3, mirrored=True) * reach
        for axis in range(2)
    ]
    side = min(height, width) // 3
    across, down = width // 2, height // 2
    points = torch.tensor([[side, side], [side, -side], [-side, -side]], dtype=torch.float64)
    points = torch.cat([points + torch.tensor([across, down]), torch.ones(3, 1)], 1).to(images.device)
    targets = points.expand(count, -1, -1).clone()
    drawn = draws.stream(2).uniform(targets[..., :2])
    targets[..., :2] += (2 * drawn - 1) * jitter
    # (x, y, 1) @ back gives the origin of each pixel of the result.
    back = torch.linalg.solve(targets, points.expand(count, -1, -1))
    y, x = torch.meshgrid(*(torch.arange(each, device=images.device) for each in (height, width)), indexing="ij")
    pixels = torch.stack(
        [x + wandering[0][:, 0], y + wandering[1][:, 0], torch.ones(count, 1, 1).to(x).expand(-1, height, width)], -1
    )
    found = (pixels.flatten(1, 2) @ back).view(count, height, width, 3)[..., :2]
    grid = 2 * found / found.new_tensor([width - 1, height - 1]) - 1
    return F.grid_sample(images, grid.to(images), mode="bilinear", padding_mode="reflection", align_corners=True)


WATER, MUD = (175 / 255, 238 / 255, 238 / 255), (63 / 255, 42 / 255, 20 / 255)


@effect(
    "spatter",
    imagenet=[
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    ],
    cifar=[
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ],
)
def _spatter(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    """Add drops of water that shine at their edges or, from severity 4 on, mud."""
    mean, deviation, sigma, threshold, share, muddy = strength
    liquid = gaussian(mean + deviation * draws.normal(images[:, :1]), sigma)
    liquid = torch.where(liquid < threshold, 0.0, liquid)
    colour = images.new_tensor(MUD if muddy else WATER)[:, None, None]
    colour = colour if images.shape[1] == 3 else colour.mean()
    if muddy:
        cover = gaussian((liquid > threshold).to(images), share)
        cover = torch.where(cover < 0.8, 0.0, cover)
        return images * (1 - cover) + colour * cover
    shine = liquid * _relief(liquid)
    return images + share * shine / shine.amax((1, 2, 3), keepdim=True).clamp(min=1e-12) * colour


def _relief(liquid: Tensor) -> Tensor:
    """Emboss the distances to the edges of drops, after equalising their histogram; in [0, 1]."""
    sobel = liquid.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    edges = convolve(liquid, sobel, "replicate").abs() + convolve(liquid, sobel.T, "replicate").abs() > 0.4
    distances = torch.where(edges, 0.0, 20.0)
    straight, diagonal = liquid.new_tensor([1.0]), liquid.new_tensor([2**0.5])
    for _ in range(20):
        padded = F.pad(distances, (1, 1, 1, 1), value=20.0)
        near = [padded[..., 1:-1, :-2], padded[..., 1:-1, 2:], padded[..., :-2, 1:-1], padded[..., 2:, 1:-1]]
        far = [padded[..., :-2, :-2], padded[..., :-2, 2:], padded[..., 2:, :-2], padded[..., 2:, 2:]]
        around = torch.stack([*(each + straight for each in near), *(each + diagonal for each in far)]).amin(0)
        distances = torch.minimum(distances, around)
    box = liquid.new_full((3, 3), 1 / 9)
    flat = (convolve(distances, box, "replicate") + 1e-3).floor().flatten(1)  # whole pixels: equal ones stay equal
    order = flat.sort(1).values
    ranks = torch.searchsorted(order, flat.contiguous(), right=True) / flat.shape[1]  # equalised
    lowest = ranks.amin(1, keepdim=True)
    equal = ((ranks - lowest) / (1 - lowest).clamp(min=1e-12)).view_as(liquid).to(liquid)
    emboss = liquid.new_tensor([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    return convolve(convolve(equal, emboss, "replicate").clamp(0, 1), box, "replicate")
