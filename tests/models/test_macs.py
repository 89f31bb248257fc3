"""Parameters and multiplications against the published counts (tests/golden/complexity.json)."""

import pytest
import torch
from torch import nn

import models
from models.macs import structure
from tests.models.formula import golden

PUBLISHED = {
    "san10_pairwise": "SAN10-pair",
    "san10_patchwise": "SAN10-patch",
    "san19_pairwise": "SAN19-pair",
    "san19_patchwise": "SAN19-patch",
    "dat_tiny": "DAT-T",
    "dat_base_384": "DAT-B@384",
    "resnet26": "ResNet26",
    "resnet50": "ResNet50",
}

OFFSET_NETWORK_OF_ONE_GROUP = {"dat_tiny": 4_409_216, "dat_base_384": 55_166_976}
"""The published counter took DAT's offset network for one group of channels; it runs for every group."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name: str) -> None:
    expected = golden("complexity")[PUBLISHED[name]]
    with torch.device("meta"):
        network = models.create(name).eval()
    counted = models.complexity(network, models.spec(name).input_shape)
    assert counted.parameters == expected["params"]
    assert counted.macs - OFFSET_NETWORK_OF_ONE_GROUP.get(name, 0) == expected["macs"]


def test_a_network_with_weights_is_left_as_it_was() -> None:
    network = models.create("san_mini_pairwise", num_classes=3).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    first = models.complexity(network, (3, 32, 32))
    assert first == models.complexity(network, (3, 32, 32))
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_a_hand_counted_network() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5))
    assert models.complexity(network, (3, 4, 4)) == models.Complexity(8 * 27 + 8 + 5 * 128 + 5, 16 * 8 * 27 + 128 * 5)


@pytest.mark.parametrize(("relation", "products"), [("subtraction", 0), ("hadamard", 9), ("dot", 9)])
def test_products_of_a_relation_are_counted(relation: str, products: int) -> None:
    sizes = {"blocks": (1,), "footprints": (3,), "widths": (64,), "stem_width": 8, "position": "none"}
    network = models.create("san_mini_pairwise", num_classes=3, relation=relation, **sizes).eval()
    pixels, inputs = 4 * 4, 1 if relation == "dot" else 4
    convs = 8 * 3 * 64 + pixels * (8 * 64 + 64 * 4 * 2 + 64 * 16 + 16 * 64) + pixels * 9 * (inputs * 4 + 4 * 2)
    assert models.complexity(network, (3, 8, 8)).macs == convs + pixels * (9 * 16 + products * 4) + 64 * 3


def test_passes_of_other_threads_are_left_alone() -> None:
    hooks: list[int] = []

    class Multiplying(nn.Module):
        def own_macs(self, _x: torch.Tensor) -> int:
            hooks.append(len(torch.nn.modules.module._global_forward_pre_hooks))
            return 7

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    assert models.complexity(nn.Sequential(Multiplying(), nn.Conv2d(3, 2, 1)), (3, 4, 4)).macs == 7 + 16 * 6
    assert hooks == [0]


@pytest.mark.parametrize("name", ["resnet_mini.fashion_mnist", "san_mini_pairwise.fashion_mnist"])
def test_the_structure_that_a_card_describes_is_that_of_the_model(name: str) -> None:
    classifier = models.load(name)
    side = classifier.card.preprocessing.crop
    found = structure(classifier.card)
    assert found.cost == models.complexity(classifier.network, (3, side, side))
    try:
        layers = models.attention_layers(classifier)
    except models.NoAttentionError:
        layers = []
    assert [*found.attention_layers] == layers
    assert bool(layers) == name.startswith("san")
