"""Common corruptions, against closed forms and second implementations."""

import colorsys
import io
import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torchvision.transforms.v2 import functional

import attacks
from attacks import Draws
from attacks.transforms.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, NAMES
from attacks.transforms.corruptions.filters import gaussian, zoom

NOT_IN_GREY = {"saturate"}
MONOTONE = set(NAMES) - {"glass_blur", "elastic_transform", "frost", "spatter", "saturate"}
"""Whose pictures are farther from the original at a higher severity; the published strengths of the others change in kind."""


def corrupted(images: Tensor, name: str, severity: int, seed: int = 0, first: int = 0) -> Tensor:
    draws = Draws.of(seed, range(first, first + len(images)))
    return attacks.create_transform("corruption", name=name, severity=severity).apply(images, draws)


def pictures(count: int, *shape: int) -> Tensor:
    """Smooth pictures with some texture, none near black or white."""
    drawn = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(drawn, 5, stride=1, padding=2, count_include_pad=False)
    return (0.3 + 0.9 * (smooth - 0.5) + 0.1 * drawn + 0.1).clamp(0.05, 0.95)


def test_fifteen_and_four() -> None:
    assert (len(CORRUPTIONS), len(EXTRA_CORRUPTIONS), len(set(NAMES))) == (15, 4, 19)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 80, 72)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_corruption_changes_pictures_within_their_range(name: str, shape: tuple[int, int, int]) -> None:
    if shape[0] == 1 and name in NOT_IN_GREY:
        pytest.skip("one channel has no colour")
    images = pictures(3, *shape)
    before = images.clone()
    for severity in (1, 3, 5):
        changed = corrupted(images, name, severity)
        assert changed.shape == images.shape
        assert changed.dtype == images.dtype
        assert 0 <= changed.min() <= changed.max() <= 1
        assert torch.equal(images, before)
        assert not torch.equal(changed, images) or (name, severity) == ("defocus_blur", 1)
        assert torch.equal(changed, corrupted(images, name, severity)), "the same draws, the same pictures"
        alone = torch.cat([corrupted(images[i : i + 1], name, severity, first=i) for i in range(3)])
        assert torch.allclose(changed, alone, atol=1e-5)


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("name", sorted(MONOTONE))
def test_higher_severities_change_more(name: str, side: int) -> None:
    images = pictures(8, 3, side, side)
    changes = [(corrupted(images, name, severity) - images).square().mean().item() for severity in range(1, 6)]
    assert all(later > 0.95 * earlier for earlier, later in itertools.pairwise(changes)), changes
    assert changes[4] > 1.1 * changes[0]


@pytest.mark.parametrize(
    ("name", "deviation"),
    [
        ("gaussian_noise", 0.08),
        ("shot_noise", (0.5 / 60) ** 0.5),
        ("speckle_noise", 0.15 * 0.5),
        ("impulse_noise", (0.03 * 0.25) ** 0.5),
    ],
)
def test_noise_has_the_stated_deviation(name: str, deviation: float) -> None:
    grey = torch.full((4, 3, 128, 128), 0.5)
    noise = corrupted(grey, name, 1) - grey
    assert noise.mean().abs() < 0.003
    assert noise.std().item() == pytest.approx(deviation, rel=0.03)


def test_impulses_are_black_and_white_in_the_stated_share() -> None:
    changed = corrupted(torch.full((4, 3, 128, 128), 0.4), "impulse_noise", 5)
    assert [(changed == value).float().mean().item() for value in (0, 1)] == pytest.approx([0.135, 0.135], abs=0.005)


@pytest.mark.parametrize(
    "name", ["gaussian_blur", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "pixelate"]
)
@pytest.mark.parametrize("side", [32, 96])
def test_blur_leaves_an_even_picture(name: str, side: int) -> None:
    even = torch.full((2, 3, side, side), 0.6)
    assert torch.allclose(corrupted(even, name, 5), even, atol=1e-5)


@pytest.mark.parametrize(("severity", "sigma"), [(1, 1.0), (5, 6.0)])
def test_gaussian_blur_is_that_of_torchvision(severity: int, sigma: float) -> None:
    images = pictures(2, 3, 96, 96)
    size = 2 * int(4 * sigma + 0.5) + 1
    expected = functional.gaussian_blur(images, [size, size], [sigma, sigma])
    inside = slice(size // 2, 96 - size // 2)
    assert torch.allclose(
        corrupted(images, "gaussian_blur", severity)[..., inside, inside], expected[..., inside, inside], atol=1e-5
    )


def test_blur_and_zoom_are_those_of_scipy() -> None:
    images = pictures(1, 1, 70, 90).double()
    plane = images[0, 0].numpy()
    near = ndimage.gaussian_filter(plane, 3, mode="nearest", truncate=4)
    assert np.allclose(gaussian(images, 3)[0, 0], near, atol=1e-12)
    mirrored = ndimage.gaussian_filter(plane, 170.8, mode="reflect", truncate=3)  # far wider than the picture
    assert np.allclose(gaussian(images, 170.8, truncate=3, mirrored=True)[0, 0], mirrored, atol=1e-12)
    height, width = (math.ceil(side / 1.2) for side in plane.shape)
    top, left = (70 - height) // 2, (90 - width) // 2
    large = ndimage.zoom(plane[top : top + height, left : left + width], 1.2, order=1)
    top, left = (large.shape[0] - 70) // 2, (large.shape[1] - 90) // 2
    assert np.allclose(zoom(images, 1.2)[0, 0], large[top : top + 70, left : left + 90], atol=1e-12)


def test_a_defocused_point_is_a_disk() -> None:
    point = torch.zeros(1, 1, 65, 65)
    point[..., 32, 32] = 1
    disk = corrupted(point, "defocus_blur", 3)[0, 0]
    y, x = torch.meshgrid(torch.arange(65) - 32, torch.arange(65) - 32, indexing="ij")
    radius = (x**2 + y**2).sqrt()
    assert disk.sum().item() == pytest.approx(1, abs=1e-4)
    assert disk[radius > 8].abs().max() < 1e-6
    inner = disk[radius < 4]
    assert inner.std() / inner.mean() < 1e-3


def test_a_moving_point_leaves_a_line_in_one_direction() -> None:
    point = torch.zeros(4, 1, 101, 101)
    point[..., 50, 50] = 1
    for streak in corrupted(point, "motion_blur", 5)[:, 0]:
        ys, xs = streak.nonzero().T
        assert streak.sum().item() == pytest.approx(1, abs=1e-4)
        assert xs.max() == 50, "within 45 degrees, to one side"
        angle = torch.atan2((50 - ys).double(), (50 - xs).double())[(50 - xs) > 10]
        assert angle.abs().max() < torch.pi / 4 + 0.1
        assert angle.max() - angle.min() < 0.15


def rgb_through(convert: object, images: Tensor) -> Tensor:
    pixels = images.permute(0, 2, 3, 1).reshape(-1, 3).tolist()
    changed = torch.tensor([convert(*pixel) for pixel in pixels])  # pyright: ignore
    return changed.view(len(images), *images.shape[2:], 3).permute(0, 3, 1, 2).clamp(0, 1)


def test_brightness_and_saturation_are_those_of_hsv() -> None:
    images = pictures(2, 3, 64, 64)
    images[0, :, :4] = 0  # black
    images[0, :, 4:8] = 0.5  # grey

    def brighter(r: float, g: float, b: float) -> tuple[float, float, float]:
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        return colorsys.hsv_to_rgb(h, s, min(1, v + 0.3))

    def richer(r: float, g: float, b: float) -> tuple[float, float, float]:
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        return colorsys.hsv_to_rgb(h, min(1, s * 5 + 0.1), v)

    assert torch.allclose(corrupted(images, "brightness", 3), rgb_through(brighter, images), atol=1e-5)
    assert torch.allclose(corrupted(images, "saturate", 4), rgb_through(richer, images), atol=1e-5)


def test_contrast_moves_towards_the_mean() -> None:
    images = pictures(2, 3, 32, 32)
    means = images.mean((2, 3), keepdim=True)
    assert torch.allclose(corrupted(images, "contrast", 5), 0.15 * images + 0.85 * means, atol=1e-6)


def test_jpeg_and_pixels_are_those_of_pil() -> None:
    images = (pictures(1, 3, 64, 64) * 255).round() / 255
    picture = Image.fromarray((images[0].permute(1, 2, 0) * 255).round().byte().numpy())
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=10)
    as_jpeg = torch.from_numpy(np.array(Image.open(written))).permute(2, 0, 1) / 255
    assert torch.equal(corrupted(images, "jpeg_compression", 4)[0], as_jpeg)
    coarse = picture.resize((16, 16), Image.Resampling.BOX).resize((64, 64), Image.Resampling.BOX)
    assert torch.equal(corrupted(images, "pixelate", 5)[0], torch.from_numpy(np.array(coarse)).permute(2, 0, 1) / 255)


def test_glass_takes_pixels_from_near_by() -> None:
    ramp = torch.linspace(0, 1, 32).view(1, 1, 1, 32).expand(2, 1, 32, 32).contiguous()
    changed = corrupted(ramp, "glass_blur", 1)  # its blur is too narrow to reach a neighbour
    assert torch.isin((changed * 31).round(), torch.arange(32.0)).all()
    assert not torch.equal(changed, ramp)


@pytest.mark.parametrize(("side", "severity", "strength"), [(32, 5, (0.4, 1, 2)), (72, 3, (1, 2, 3))])
def test_glass_is_the_line_of_the_authors_on_views(side: int, severity: int, strength: tuple[float, int, int]) -> None:
    """Rows of a colour picture are views: assigned crosswise, the second receives what the first has just become."""
    sigma, reach, rounds = strength
    images = pictures(2, 3, side, side).double()
    shape = (rounds, side, side, 2)
    drawn = Draws.of(0, range(2)).integers(2 * reach, *shape) - reach
    for image, steps, ours in zip(images, drawn.numpy(), corrupted(images, "glass_blur", severity), strict=True):
        pixels = gaussian(image[None], sigma)[0].permute(1, 2, 0).numpy().copy()
        for turn in range(rounds):
            for y in range(side - reach, reach, -1):
                for x in range(side - reach, reach, -1):
                    dx, dy = steps[turn, y - 1, x - 1]
                    pixels[y, x], pixels[y + dy, x + dx] = pixels[y + dy, x + dx], pixels[y, x]
        expected = gaussian(torch.from_numpy(pixels).permute(2, 0, 1)[None], sigma)[0]
        assert torch.allclose(ours, expected, atol=1e-6)


def test_an_elastic_map_keeps_an_even_picture_and_moves_a_point_a_little() -> None:
    even = torch.full((2, 3, 32, 32), 0.3)
    assert torch.allclose(corrupted(even, "elastic_transform", 5), even, atol=1e-5)
    ramp = torch.linspace(0, 1, 64).view(1, 1, 1, 64).expand(3, 1, 64, 64).contiguous()
    moved = (corrupted(ramp, "elastic_transform", 3) - ramp)[..., 10:-10, 10:-10].abs() * 63
    assert 0.2 < moved.max() < 15, "pixels"


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"saturate needs 3 channels, got 1"):
        corrupted(torch.rand(1, 1, 32, 32), "saturate", 1)
    with pytest.raises(
        ValueError, match=r"fog needs 1 or 3 channels and sides of at least 16 pixels, got \(3, 8, 32\)"
    ):
        corrupted(torch.rand(1, 3, 8, 32), "fog", 1)
    with pytest.raises(ValueError, match="severity"):
        corrupted(torch.rand(1, 3, 32, 32), "fog", 6)
    with pytest.raises(ValueError, match="name"):
        corrupted(torch.rand(1, 3, 32, 32), "rain", 1)
