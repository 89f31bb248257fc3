"""Pictures of every mode, with values known beforehand."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from common.pictures import PictureError
from models import Preprocessing, scaled

PLAIN = Preprocessing(resize=4, crop=4)


def levels(tensor: Tensor) -> list[int]:
    """The one 8-bit value of each channel."""
    assert tensor.dtype == torch.float32
    assert tensor.shape[0] == 3
    scaled = tensor.flatten(1) * 255
    assert torch.equal(scaled, scaled[:, :1].expand_as(scaled))
    assert torch.equal(scaled[:, 0], scaled[:, 0].round())
    return scaled[:, 0].int().tolist()


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (10, 20, 250), [10, 20, 250]),
        ("RGBA", (10, 20, 250, 0), [10, 20, 250]),
        ("RGBX", (10, 20, 250, 7), [10, 20, 250]),
        ("L", 77, [77, 77, 77]),
        ("LA", (77, 3), [77, 77, 77]),
        ("1", 1, [255, 255, 255]),
        ("1", 0, [0, 0, 0]),
        ("CMYK", (255, 0, 0, 0), [0, 255, 255]),
        ("CMYK", (0, 0, 0, 255), [0, 0, 0]),
        ("YCbCr", (128, 128, 128), [128, 128, 128]),
        ("HSV", (0, 255, 200), [200, 0, 0]),
        ("I;16", 100 * 257, [100, 100, 100]),
        ("I;16", 65535, [255, 255, 255]),
        ("I;16B", 100 * 257, [100, 100, 100]),
    ],
)
def test_a_constant_picture_has_the_value_it_should(mode: str, colour: int, expected: list[int]) -> None:
    assert levels(PLAIN(Image.new(mode, (6, 5), colour))) == expected


@pytest.mark.parametrize("transparency", [None, 1, b"\x00\x80"])
def test_palettes_are_looked_up_and_their_transparency_ignored(transparency: int | bytes | None) -> None:
    picture = Image.new("P", (6, 6), 1)
    picture.putpalette([1, 2, 3, 40, 50, 60])
    if transparency is not None:
        picture.info["transparency"] = transparency
    assert levels(PLAIN(picture)) == [40, 50, 60]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_modes_without_a_range_are_refused(mode: str) -> None:
    with pytest.raises(PictureError, match=f"mode {mode} has no fixed range of values: save it with 8 or 16 bits"):
        PLAIN(Image.new(mode, (6, 6), 1))


def test_a_mode_without_a_conversion_is_refused() -> None:
    with pytest.raises(PictureError, match="mode La cannot be used: conversion from La"):
        PLAIN(Image.new("La", (6, 6)))


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (3, 7), (300, 200), (8, 8), (1, 40)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_any_size_gives_one_shape_in_range(size: tuple[int, int], interpolation: str) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (size[1], size[0], 3), dtype=np.uint8) * 255
    tensor = Preprocessing(resize=9, crop=8, interpolation=interpolation)(Image.fromarray(noise))
    assert tensor.shape == (3, 8, 8)
    assert tensor.min() >= 0
    assert tensor.max() <= 1


def test_the_centre_is_cut_out_without_moving_a_pixel() -> None:
    """Shorter side already 6: no resizing. Rows 1-4 of 6 and columns 3-6 of 10 remain."""
    rows, columns = np.mgrid[0:6, 0:10]
    pixels = np.stack([rows, columns, rows * 10 + columns], 2).astype(np.uint8)
    tensor = Preprocessing(resize=6, crop=4)(Image.fromarray(pixels))
    expected = torch.from_numpy(pixels[1:5, 3:7].transpose(2, 0, 1).copy()).float() / 255
    assert torch.equal(tensor, expected)


def test_the_shorter_side_is_resized_and_the_aspect_kept() -> None:
    """A 40 x 20 ramp along x becomes 20 x 10; its middle 10 columns run over the middle half of the ramp."""
    ramp = np.tile(np.linspace(0, 255, 40).round().astype(np.uint8), (20, 1))
    tensor = Preprocessing(resize=10, crop=10)(Image.fromarray(ramp))
    values = tensor[0, 5] * 255
    steps = values.diff()
    assert values[0].item() == pytest.approx(255 * 10.5 / 39, abs=2)
    assert values[-1].item() == pytest.approx(255 * 28.5 / 39, abs=2)
    assert (steps - 255 * 2 / 39).abs().max() <= 1.5
    assert torch.equal(tensor[0], tensor[0, :1].expand(10, 10))


def test_shrinking_averages_instead_of_skipping_pixels() -> None:
    checks = (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)
    tensor = PLAIN(Image.fromarray(checks))
    assert (tensor - 0.5).abs().max() < 0.1


@pytest.mark.parametrize("upright", [False, True])
def test_of_a_long_strip_only_the_middle_is_read(upright: bool) -> None:
    """Resized whole, a strip of 1 x 50,000 would take gigabytes."""
    noise = np.random.default_rng(0).integers(0, 256, (3, 1001), dtype=np.uint8)
    middle = noise[:, 476:524]  # 48 = 16 * 3 of 1001 columns
    strips = [Image.fromarray(part.T.copy() if upright else part) for part in (noise, middle)]
    whole, part = (Preprocessing(resize=10, crop=10)(strip) for strip in strips)
    assert torch.equal(whole, part)


def test_a_panorama_is_read_whole() -> None:
    ramp = np.tile(np.arange(48, dtype=np.uint8) * 5, (3, 1))
    values = Preprocessing(resize=3, crop=3)(Image.fromarray(ramp))[0, 0] * 255
    assert values.tolist() == [110, 115, 120]


def test_the_picture_itself_is_not_changed() -> None:
    picture = Image.new("RGBA", (9, 5), (1, 2, 3, 4))
    PLAIN(picture)
    assert (picture.mode, picture.size, picture.getpixel((0, 0))) == ("RGBA", (9, 5), (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"resize": 0}, "resize"),
        ({"crop": 0}, "crop"),
        ({"resize": 4097}, "resize"),
        ({"resize": 32, "crop": 33}, "crop must be at most resize, got crop 33 and resize 32"),
        ({"interpolation": "nearest"}, "'bilinear' or 'bicubic'"),
        ({"mean": (0.5,)}, "mean"),
        (
            {"mean": (123.675, 116.28, 103.53)},
            r"\[123.675, 116.28, 103.53\] is not on the \[0, 1\] scale .*123.675 -> 0.485",
        ),
        ({"mean": (-0.1, 0.5, 0.5)}, "0 to 1 is allowed"),
        ({"mean": (float("nan"), 0.5, 0.5)}, "0 to 1 is allowed"),
        ({"std": (0.0, 0.5, 0.5)}, "above 0, at most 1 is allowed"),
        ({"std": (0.2, 0.2, 58.4)}, "above 0, at most 1 is allowed"),
        ({"size": 32}, "size"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(fields: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Preprocessing(**fields)


def test_the_defaults_are_those_of_imagenet() -> None:
    assert PLAIN.mean == (0.485, 0.456, 0.406)
    assert PLAIN.std == (0.229, 0.224, 0.225)
    assert Preprocessing()(Image.new("L", (500, 300), 51)).shape == (3, 224, 224)
    assert Preprocessing.model_validate_json(PLAIN.model_dump_json()) == PLAIN


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(28, 28), (32, 32), (61, 47), (40, 99), (33, 32)])
def test_equals_torchvision_to_the_bit(size: tuple[int, int], interpolation: str) -> None:
    picture = Image.effect_noise(size, 60).convert("RGB")
    mode = v2.InterpolationMode(interpolation)
    reference = v2.Compose([v2.Resize(32, interpolation=mode), v2.CenterCrop(24), v2.PILToTensor()])(picture)
    ours = Preprocessing(resize=32, crop=24, interpolation=interpolation)(picture)
    assert torch.equal(ours, reference.float() / 255)


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))],
)
def test_pixels_are_scaled_on_their_device_to_the_bit(device: str) -> None:
    levels = np.arange(256, dtype=np.uint8)
    assert torch.equal(scaled(torch.from_numpy(levels).to(device)).cpu(), torch.from_numpy(levels / np.float32(255)))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_an_image_is_its_pixels_scaled(crop_mode: str) -> None:
    picture = Image.effect_noise((61, 47), 60)
    preprocessing = Preprocessing(resize=32, crop=24, crop_mode=crop_mode)
    pixels = preprocessing.pixels(picture)
    assert (pixels.dtype, pixels.shape, pixels.flags.c_contiguous) == (np.uint8, (3, 24, 24), True)
    assert torch.equal(scaled(torch.from_numpy(pixels)), preprocessing(picture))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize(
    ("size", "most"), [((61, 47), 2), ((40, 99), 2), ((24, 24), 2), ((9, 13), 12), ((700, 20), 2), ((640, 480), 2)]
)
def test_pytorch_makes_nearly_the_same_pixels(
    size: tuple[int, int], most: int, crop_mode: str, interpolation: str
) -> None:
    generator = np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    preprocessing = Preprocessing(resize=32, crop=24, crop_mode=crop_mode, interpolation=interpolation)
    decoded = torch.from_numpy(np.array(noise)).permute(2, 0, 1)
    found = preprocessing.tensor_pixels(decoded)
    expected = torch.from_numpy(preprocessing.pixels(noise))
    assert (found.dtype, found.shape) == (torch.uint8, (3, 24, 24))
    assert (found.short() - expected.short()).abs().max() <= most


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"std": (0.5, 0.5, 0.5)}, True),
        ({"mean": (0.5, 0.5, 0.5)}, True),
        ({"mean": (0.5, 0.5, 0.5), "crop_mode": "border"}, False),
        ({"crop_mode": "squash"}, False),
        ({"interpolation": "bicubic"}, False),
        ({"crop": 223}, False),
        ({"resize": 255}, False),
    ],
    ids=str,
)
def test_the_geometry_names_what_decides_pixels(change: dict, same: bool) -> None:
    plain, changed = Preprocessing(), Preprocessing(**change)
    assert (plain.geometry == changed.geometry) == same
    filled = Preprocessing(crop_mode="border")
    assert filled.geometry != Preprocessing(crop_mode="border", mean=(0.5, 0.5, 0.5)).geometry
