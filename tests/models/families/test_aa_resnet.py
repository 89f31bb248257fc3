"""AA-ResNets against the published sizes."""

from typing import Any

import pytest
import torch
from torch import nn

import models
from models.families.aa_resnet.attention import AugmentedConv2d, Positions
from tests.models.families.encodings import draw, every_encoding


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("aa_resnet34", {}, 20_749_552),
        ("aa_resnet50", {}, 25_781_872),
        ("aa_resnet101", {}, 45_359_208),
        ("aa_resnet152", {}, 61_558_496),
        ("aa_resnet50", {"pool_first": False}, 25_785_792),
        ("aa_resnet50", {"kappa": 0.25, "upsilon": 0.25}, 24_308_208),
        ("aa_resnet50", {"kappa": 0.5, "upsilon": 0.5}, 22_347_160),
        ("aa_resnet50", {"kappa": 0.75, "upsilon": 0.75}, 20_739_976),
        ("aa_resnet50", {"kappa": 1.0, "upsilon": 1.0}, 19_388_040),
        ("aa_wide_resnet28_10", {"num_classes": 100}, 36_314_580),
        ("aa_resnet_mini", {"num_classes": 10}, 662_538),
    ],
)
def test_parameter_counts(name: str, options: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        assert parameters(models.create(name, **options)) == count


def augmented(network: nn.Module) -> dict[str, AugmentedConv2d]:
    return {name: module for name, module in network.named_modules() if isinstance(module, AugmentedConv2d)}


@pytest.mark.parametrize(
    ("name", "options", "sides"),
    [
        ("aa_resnet34", {"pool_first": False}, [56, 28, 28, 28, 28, 14, 14, 14, 14, 14, 14, 7, 7]),
        ("aa_resnet50", {}, [28] * 4 + [14] * 6 + [7] * 3),
        ("aa_resnet50", {"pool_first": False, "pooled": True}, [28, 14, 14, 14, 28, 14, 14, 14, 14, 14, 14, 7, 7]),
        ("aa_resnet50", {"pooled": True}, [14] * 10 + [7] * 3),
        ("aa_wide_resnet28_10", {}, [32] * 5 + [16] * 4 + [8] * 3),
        ("aa_resnet_mini", {}, [8, 8, 4, 4]),
    ],
)
def test_the_maps_that_are_attended(name: str, options: dict[str, Any], sides: list[int]) -> None:
    """Read from the tables; the network runs, so the tables fit their maps."""
    with torch.device("meta"):
        network = models.create(name, num_classes=3, **options)
        assert network(torch.empty(1, *models.spec(name).input_shape)).shape == (1, 3)
    layers = augmented(network)
    assert [(len(module.rel_h) + 1) // 2 for module in layers.values()] == sides
    assert {key.rsplit(".")[-1] for key in layers} == {"conv2" if name == "aa_resnet50" else "conv1"}


def test_heads_have_twenty_key_dimensions_or_more() -> None:
    with torch.device("meta"):
        small, large = models.create("aa_resnet50"), models.create("aa_resnet50", kappa=0.5)
    assert {module.key_dims for module in augmented(small).values()} == {160}
    assert {module.key_dims for module in augmented(large).values()} == {160, 256}
    assert {module.value_dims for module in augmented(small).values()} == {16, 24, 48}  # of 12.8, 25.6 and 51.2


def test_names_are_those_of_the_plain_network() -> None:
    with torch.device("meta"):
        plain, ours = models.create("resnet50").state_dict(), models.create("aa_resnet50").state_dict()
    parts = (".conv.weight", ".qkv.weight", ".projection.weight", ".rel_h", ".rel_w")
    new = {key for key in ours if key.endswith(parts)}
    assert set(plain) - set(ours) == {key.replace(".qkv", "") for key in new if ".qkv" in key}
    assert set(ours) - set(plain) == new
    assert "layer2.0.conv2.qkv.weight" in new
    assert len(new) == 5 * 13


@every_encoding
def test_every_parameter_gets_a_gradient(positions: Positions) -> None:
    torch.manual_seed(0)
    network = models.create("aa_resnet_mini", num_classes=5, positions=positions, upsilon=1.0).double().eval()
    network(draw(2, 3, 32, 32)).square().sum().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-12]
    assert silent == []


def test_the_same_image_gives_the_same_logits() -> None:
    """Tables are parameters, not drawn in forward; and a row of a batch is the image alone."""
    torch.manual_seed(0)
    network, batch = models.create("aa_resnet_mini", num_classes=5).double().eval(), draw(3, 3, 32, 32)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        first, again = network(batch), network(batch)
        alone = torch.cat([network(image.unsqueeze(0)) for image in batch])
    assert torch.equal(first, again)
    assert torch.allclose(first, alone, rtol=0, atol=1e-11)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_without_tables_any_size_is_possible() -> None:
    network = models.create("aa_resnet_mini", num_classes=5, positions="sine").eval()
    assert network(torch.zeros(1, 3, 23, 40)).shape == (1, 5)
    smaller = models.create("aa_resnet_mini", num_classes=5, image_size=23).eval()
    assert smaller(torch.zeros(1, 3, 23, 23)).shape == (1, 5)
