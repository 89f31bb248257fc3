"""Rotations and flips on pictures small enough to turn by hand, and what must hold for every transform."""

from typing import Any

import pytest
import torch
from torch import Tensor

import attacks
from attacks import Draws
from tests.attacks.digits import draws, generator

EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "rotation": [{"degrees": 90}, {"degrees": 30, "fill": 0.5}],
    "flip": [{"direction": "upside_down"}, {"direction": "left_right"}],
    "spatial": [{"degrees": 10, "dx": 1}, {"dy": -2, "fill": 0.5}],
    "corruption": [{"name": "snow", "severity": 2}, {"name": "jpeg_compression", "severity": 5}],
}
"""Parameters for transforms that have no defaults; a transform not listed is made without any."""

CASES = [(name, parameters) for name in attacks.transform_names() for parameters in EXAMPLES.get(name, [{}])]
every_transform = pytest.mark.parametrize(("name", "parameters"), CASES, ids=str)


def picture(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows).view(1, 1, len(rows), -1) / 10


ABC = picture([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
TURNED = {
    90: [[7, 4, 1], [8, 5, 2], [9, 6, 3]],
    180: [[9, 8, 7], [6, 5, 4], [3, 2, 1]],
    270: [[3, 6, 9], [2, 5, 8], [1, 4, 7]],
    -90: [[3, 6, 9], [2, 5, 8], [1, 4, 7]],
    -270: [[7, 4, 1], [8, 5, 2], [9, 6, 3]],
    360: [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
    0: [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
}


def rotate(images: Tensor, degrees: float, **parameters: float) -> Tensor:
    return attacks.create_transform("rotation", degrees=degrees, **parameters).apply(images, draws(images))


def flip(images: Tensor, direction: str) -> Tensor:
    return attacks.create_transform("flip", direction=direction).apply(images, draws(images))


@pytest.mark.parametrize("degrees", TURNED)
def test_quarter_turns_are_clockwise_permutations(degrees: int) -> None:
    assert torch.equal(rotate(ABC, degrees), picture(TURNED[degrees]))


def test_flips() -> None:
    assert torch.equal(flip(ABC, "upside_down"), picture([[7, 8, 9], [4, 5, 6], [1, 2, 3]]))
    assert torch.equal(flip(ABC, "left_right"), picture([[3, 2, 1], [6, 5, 4], [9, 8, 7]]))


def test_half_a_turn_is_not_upside_down_but_both_flips() -> None:
    assert not torch.equal(rotate(ABC, 180), flip(ABC, "upside_down"))
    assert torch.equal(rotate(ABC, 180), flip(flip(ABC, "upside_down"), "left_right"))


def test_four_quarter_turns_are_none() -> None:
    images = torch.rand(2, 3, 6, 6, generator=generator())
    turned = images
    for _ in range(4):
        turned = rotate(turned, 90)
    assert torch.equal(turned, images)


def test_each_channel_and_image_turns_by_itself() -> None:
    images = torch.rand(2, 3, 5, 5, generator=generator())
    for degrees in (90, 33):
        turned = rotate(images, degrees)
        assert torch.allclose(turned[1:, 2:], rotate(images[1:, 2:], degrees))


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_nearly_a_quarter_turn_is_nearly_the_quarter_turn(degrees: int) -> None:
    images = torch.zeros(1, 1, 9, 9)
    images[..., 2:5, 3:8] = torch.rand(3, 5, generator=generator())
    assert torch.allclose(rotate(images, degrees - 0.01), rotate(images, degrees), atol=0.005)


def test_any_angle_is_clockwise() -> None:
    images = torch.zeros(1, 1, 21, 21)
    images[..., 2, 10] = 1  # twelve o'clock
    turned = rotate(images, 45)
    row, column = divmod(int(turned.flatten().argmax()), 21)
    assert (row, column) == (4, 16)  # half past one


@pytest.mark.parametrize("fill", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_angle_keeps_shape_and_range_and_fills_the_corners(fill: float, channels: int) -> None:
    images = 0.4 + 0.2 * torch.rand(2, channels, 15, 15, generator=generator())
    turned = rotate(images, 45, fill=fill)
    assert turned.shape == images.shape
    assert turned.min() >= 0
    assert turned.max() <= 1
    corners = turned[..., [0, 0, -1, -1], [0, -1, 0, -1]]
    assert torch.equal(corners, torch.full_like(corners, fill))
    assert torch.allclose(turned[..., 7, 7], images[..., 7, 7], atol=1e-5)  # the centre stays


@pytest.mark.parametrize("degrees", [90, -90, 270])
def test_a_quarter_turn_of_an_oblong_is_an_error(degrees: int) -> None:
    with pytest.raises(ValueError, match=r"a quarter turn needs square images, got \(2, 3\)"):
        rotate(torch.zeros(1, 1, 2, 3), degrees)


def test_an_oblong_can_be_turned_halfway_or_a_little() -> None:
    oblong = picture([[1, 2, 3], [4, 5, 6]])
    assert torch.equal(rotate(oblong, 180), picture([[6, 5, 4], [3, 2, 1]]))
    assert rotate(oblong, 10).shape == oblong.shape


@every_transform
def test_keeps_shape_type_range_and_its_input(name: str, parameters: dict[str, Any]) -> None:
    images = torch.rand(3, 3, 16, 16, generator=generator())
    before = images.clone()
    changed = attacks.create_transform(name, **parameters).apply(images, draws(images))
    assert changed.shape == images.shape
    assert changed.dtype == images.dtype
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert torch.equal(images, before)
    assert not torch.equal(changed, images)
    changed.zero_()
    assert torch.equal(images, before)  # no view of the input


@every_transform
def test_depends_on_the_seed_and_the_image_only(name: str, parameters: dict[str, Any]) -> None:
    transform = attacks.create_transform(name, **parameters)
    images = torch.rand(5, 3, 16, 16, generator=generator())
    assert torch.equal(transform.apply(images, draws(images, 1)), transform.apply(images, draws(images, 1)))
    whole = transform.apply(images, Draws.of(0, range(5)))
    pieces = [transform.apply(images[i : i + 2], Draws.of(0, range(i, min(i + 2, 5)))) for i in (0, 2, 4)]
    assert torch.allclose(torch.cat(pieces), whole, rtol=0, atol=1e-6)


@every_transform
def test_is_made_anew_from_its_parameters(name: str, parameters: dict[str, Any]) -> None:
    transform = attacks.create_transform(name, **parameters)
    assert attacks.create_transform(name, **attacks.parameters(transform)) == transform
    assert transform.title
