"""Turned and shifted pictures."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

import attacks
from attacks.transforms.spatial import spatial_grid


def moved(images: Tensor, **parameters: float) -> Tensor:
    return attacks.create_transform("spatial", **parameters).apply(images, attacks.Draws.of(0, range(len(images))))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 20, 26, generator=torch.Generator().manual_seed(0))


def test_whole_shifts_are_exact(images: Tensor) -> None:
    right_down = moved(images, dx=3, dy=2, fill=0.25)
    assert torch.equal(right_down[:, :, 2:, 3:], images[:, :, :-2, :-3])
    assert (right_down[:, :, :2] == 0.25).all()
    assert (right_down[:, :, :, :3] == 0.25).all()
    assert torch.equal(moved(images, dx=-4)[..., :-4], images[..., 4:])
    assert torch.equal(moved(images), images)
    assert torch.equal(moved(images, dx=26, fill=0.5), torch.full_like(images, 0.5))


@pytest.mark.parametrize("degrees", [-170.0, -30.0, 12.5, 45.0, 90.0])
def test_a_turn_is_that_of_torchvision(images: Tensor, degrees: float) -> None:
    """Within the picture; at its border torchvision darkens twice, by the mask and by the zeros that it lies in."""
    expected = functional.rotate(images, -degrees, functional.InterpolationMode.BILINEAR)
    inside = functional.rotate(torch.ones_like(images), -degrees, functional.InterpolationMode.BILINEAR) > 0.999
    assert inside.float().mean() > 0.5
    assert (moved(images, degrees=degrees) - expected)[inside].abs().max() < 1e-4


@pytest.mark.parametrize(("dx", "dy"), [(2.0, -3.0), (0.5, 0.25)])
def test_a_turn_then_a_shift(images: Tensor, dx: float, dy: float) -> None:
    turned = moved(images, degrees=20)
    both = moved(images, degrees=20, dx=dx, dy=dy)
    if dx == int(dx):
        assert torch.allclose(
            both[..., :-3, 2:][..., :-3, 2:], moved(turned, dx=dx, dy=dy)[..., :-3, 2:][..., :-3, 2:], atol=1e-5
        )
    else:  # half a pixel lies between two
        plain = moved(images, dx=dx, dy=dy)[..., 2:-2, 2:-2]
        left = 0.5 * images + 0.5 * images.roll(1, -1)
        expected = 0.75 * left + 0.25 * left.roll(1, -2)
        assert torch.allclose(plain, expected[..., 2:-2, 2:-2], atol=1e-5)


def test_fill_and_range(images: Tensor) -> None:
    bright = moved(images, degrees=45, fill=1)
    assert bright[..., 0, 0].eq(1).all()
    assert 0 <= bright.min() <= bright.max() <= 1
    assert torch.equal(moved(torch.full_like(images, 0.5), degrees=33, dx=1.5, fill=0.5), torch.full_like(images, 0.5))


def test_the_grid_is_the_papers() -> None:
    grid = spatial_grid(32)
    assert [len(values) for values in grid.values()] == [31, 5, 5]
    assert grid["dx"] == (-3, -2, 0, 2, 3)
    assert (grid["degrees"][0], grid["degrees"][15], grid["degrees"][-1]) == (-30, 0, 30)
    assert spatial_grid(224)["dy"] == (-22, -11, 0, 11, 22)


@pytest.mark.parametrize("parameters", [{"degrees": 181}, {"dx": float("nan")}, {"fill": 2}, {"dz": 1}])
def test_bad_parameters_are_refused(parameters: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(parameters))):
        attacks.create_transform("spatial", **parameters)
