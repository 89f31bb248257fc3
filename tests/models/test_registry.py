"""Every registered architecture: built, run, trained for a step, and compared with its publication."""

import math
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import models
from common import UnknownNameError
from models.families.resnet import BasicBlock
from models.registry import ModelSpec, register, register_others

MINIS = [name for name in models.names() if "_mini" in name]
every_model = pytest.mark.parametrize("name", models.names())
every_mini = pytest.mark.parametrize("name", MINIS)

WITHOUT_GRADIENT = {
    "san_mini_pairwise": ("conv_p.bias", "conv_w.5.bias"),
    "dat_mini": ("proj_k.bias",),
}
"""Biases that cancel: SAN's in differences of positions and in the softmax over the footprint, DAT's in the softmax over keys."""


def mini(name: str, *, seed: int = 0, num_classes: int = 7) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.create(name, num_classes=num_classes)


def images(count: int, seed: int = 0, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_there_are_minis_of_every_family() -> None:
    assert set(MINIS) == {
        "aa_resnet_mini",
        "attention_mask_mini",
        "dat_mini",
        "multi_attention_mask_mini",
        "resnet_mini",
        "san_mini_pairwise",
        "san_mini_patchwise",
    }


@every_model
def test_every_model_is_built_and_runs_without_memory(name: str) -> None:
    with torch.device("meta"):
        network = models.create(name, num_classes=7).eval()
        logits = network(torch.empty(2, *models.spec(name).input_shape))
    assert logits.shape == (2, 7)
    assert models.spec(name).name == name
    assert models.spec(name).paper


@every_mini
def test_minis_run_and_depend_on_the_image(name: str) -> None:
    network = mini(name).eval()
    with torch.inference_mode():
        logits = network(images(3))
    assert logits.shape == (3, 7)
    assert logits.isfinite().all()
    assert (logits[0] - logits[1]).abs().max() > 1e-4


@every_mini
def test_every_parameter_gets_a_gradient(name: str) -> None:
    network = mini(name).double().eval()  # in training, batch norm would cancel the biases before it
    batch = images(4).double()
    (network(batch) * batch[:, 0, 0, :7]).sum().backward()
    silent = {key for key, value in network.named_parameters() if value.grad is None or value.grad.abs().max() < 1e-12}
    assert silent == {key for key, _ in network.named_parameters() if key.endswith(WITHOUT_GRADIENT.get(name, ()))}


@every_mini
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    network = mini(name).double().eval()
    batch = images(5).double()
    with torch.inference_mode():
        together = network(batch)
        alone = torch.cat([network(image.unsqueeze(0)) for image in batch])
    assert torch.allclose(together, alone, rtol=0, atol=1e-10)


@every_mini
def test_the_seed_decides_the_weights(name: str) -> None:
    first, same, other = (mini(name, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", [name for name in MINIS if name.startswith("san")])
def test_half_precision_is_near(name: str) -> None:
    network = mini(name).eval()
    with torch.inference_mode():
        exact = network(images(8))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = network(images(8))
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() <= 0.015 * exact.norm()  # bfloat16 keeps 8 bits: 0.4 % a rounding


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvision_weights_fit(name: str) -> None:
    theirs = torchvision.models.get_model(name, weights=None)
    ours = models.create(name, num_classes=1000)
    assert not any(
        torch.equal(value, theirs.state_dict()[key]) for key, value in ours.named_parameters() if value.ndim > 1
    )
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with torch.inference_mode():
        assert torch.equal(ours.eval()(images(1, size=64)), theirs.eval()(images(1, size=64)))


@pytest.mark.parametrize(("inputs", "width", "stride"), [(8, 8, 1), (8, 16, 2)])
def test_the_basic_block_is_torchvisions(inputs: int, width: int, stride: int) -> None:
    def block(kind: Any) -> nn.Module:
        torch.manual_seed(0)
        shortcut = None if inputs == width else nn.Conv2d(inputs, width, 1, stride)
        return kind(inputs, width, stride, shortcut)

    ours, theirs = block(BasicBlock), block(torchvision.models.resnet.BasicBlock)
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)
    x = torch.randn(2, inputs, 5, 7)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet_mini", {"widths": (8, 16, 24), "blocks": 1}),
        ("san_mini_pairwise", {"blocks": (1, 1, 1), "widths": (32, 32, 64)}),
        ("san_mini_patchwise", {"footprints": (1, 1, 3), "stem_width": 16}),
    ],
)
def test_options_change_the_network(name: str, options: dict) -> None:
    network, default = models.create(name, num_classes=3, **options), models.create(name, num_classes=3)
    assert sum(p.numel() for p in network.parameters()) < sum(p.numel() for p in default.parameters())
    assert network.eval()(images(1)).shape == (1, 3)


def test_a_fresh_network_starts_near_chance() -> None:
    """No class is preferred before training: the loss is about log K."""
    for name in MINIS:
        network = mini(name, num_classes=10)
        loss = nn.functional.cross_entropy(network(images(16)), torch.arange(16) % 10)
        assert abs(loss.item() - math.log(10)) < 0.4, name


def test_an_unknown_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown architecture 'resnet_50'\. Did you mean 'resnet50'\? Known: .*san10_"
    ):
        models.create("resnet_50")
    with pytest.raises(UnknownNameError, match="unknown architecture ''"):
        models.spec("")


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="resnet_mini has no option depth, width; it has: widths, blocks"):
        models.create("resnet_mini", depth=3, width=2)


@pytest.mark.parametrize("num_classes", [0, -1])
def test_there_is_at_least_one_class(num_classes: int) -> None:
    with pytest.raises(ValueError, match=f"num_classes must be at least 1, got {num_classes}"):
        models.create("resnet_mini", num_classes=num_classes)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kind": "patchwize"}, r"unknown kind of attention 'patchwize'\. Did you mean 'patchwise'\?"),
        ({"widths": (48, 64, 64)}, r"widths must be multiples of 32, got \(48, 64, 64\)"),
        ({"blocks": (1, 1)}, "shorter|longer"),
    ],
)
def test_san_refuses_options_that_mean_nothing(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        models.create("san_mini_pairwise", **options)


def test_images_too_small_for_the_footprint_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a map larger than 2 in both directions, got 2 x 2: use larger images"):
        mini("san_mini_pairwise").eval()(images(1, size=16))


def test_a_name_is_given_once() -> None:
    before = models.spec("resnet_mini")
    with pytest.raises(ValueError, match="architecture 'resnet_mini' is registered twice"):
        register(ModelSpec("resnet_mini", nn.Identity, (3, 1, 1), ""))
    assert models.spec("resnet_mini") is before


def test_a_prefix_is_given_once() -> None:
    with pytest.raises(ValueError, match="architectures 'timm' are registered twice"):
        register_others("timm", models.spec)
