"""Attention maps: known answers, and nothing left behind in the network."""

from collections.abc import Callable
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from common import UnknownNameError
from models.families.aa_resnet.attention import AugmentedConv2d
from models.families.attention_mask import AttentionMaskNet
from models.families.dat.attention import DeformableAttention
from models.families.san.network import PairwiseAttention, PatchwiseAttention

MINIS = {
    "san_mini_pairwise": ("layer0.0.sam", "layer1.0.sam", "layer1.1.sam", "layer2.0.sam"),
    "san_mini_patchwise": ("layer0.0.sam", "layer1.0.sam", "layer1.1.sam", "layer2.0.sam"),
    "dat_mini": ("stages.1.attns.1", "stages.2.attns.1"),
    "aa_resnet_mini": ("layer2.0.conv1", "layer2.1.conv1", "layer3.0.conv1", "layer3.1.conv1"),
    "attention_mask_mini": ("attention",),
    "multi_attention_mask_mini": ("attention",),
}
CORNERS = [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]


def classifier_of(network: nn.Module, name: str) -> models.Classifier:
    card = models.ModelCard(architecture=name, classes=("a", "b", "c"))
    return models.Classifier(network, card).eval()


def mini(name: str) -> models.Classifier:
    torch.manual_seed(0)
    return classifier_of(models.create(name, num_classes=3), name)


def alone(layer: nn.Module) -> models.Classifier:
    """A classifier that is one attention layer and sees the images as they are."""
    card = models.ModelCard(
        architecture="resnet_mini",
        classes=("a",),
        preprocessing=models.Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    )
    return models.Classifier(nn.Sequential(layer), card).eval()


def shown(layer: nn.Module, x: Tensor, query: tuple[float, float] | None = None) -> models.AttentionMap:
    classifier = alone(layer)
    classifier.mean, classifier.std = torch.zeros(1), torch.ones(1)  # any number of channels
    (found,) = models.attention_maps(classifier, x, query=query)
    return found


def unscaled(found: models.AttentionMap) -> Tensor:
    return found.maps * found.scale[..., None, None]


def zeroed(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def images(count: int = 2, side: int = 32) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MINIS)
@pytest.mark.parametrize("query", [None, (0.3, 0.6)])
def test_all_layers_of_every_family_are_shown_in_order(name: str, query: tuple[float, float] | None) -> None:
    classifier = mini(name)
    assert models.attention_layers(classifier) == list(MINIS[name])
    found = models.attention_maps(classifier, images(), query=query)
    assert tuple(each.layer for each in found) == MINIS[name]
    for each in found:
        assert each.kind
        assert each.maps.shape[:2] == each.scale.shape
        assert len(each.maps) == 2
        assert each.maps.min() >= 0
        assert torch.equal(each.maps.amax((2, 3)), torch.ones_like(each.scale))
        (single,) = models.attention_maps(classifier, images(), layer=each.layer, query=query)
        assert torch.equal(single.maps, each.maps)


@pytest.mark.parametrize("name", MINIS)
@pytest.mark.parametrize("query", [None, (0.3, 0.6)])
def test_a_row_of_a_batch_equals_the_single_image(name: str, query: tuple[float, float] | None) -> None:
    classifier = mini(name)
    batch = models.attention_maps(classifier, images(3), query=query)
    alone_ = models.attention_maps(classifier, images(3)[1:2], query=query)
    for many, one in zip(batch, alone_, strict=True):
        assert torch.allclose(many.maps[1:2], one.maps, atol=1e-5)
        assert torch.allclose(many.scale[1:2], one.scale, rtol=1e-5)
        if one.points is not None and many.points is not None:
            assert torch.allclose(many.points[1:2], one.points, atol=1e-5)


@pytest.mark.parametrize("query", [None, *CORNERS])
def test_softmax_scores_sum_to_one(query: tuple[float, float] | None) -> None:
    normalised = ["dat_mini", "aa_resnet_mini", *(["san_mini_pairwise"] if query else [])]
    for name in normalised:
        for found in models.attention_maps(mini(name), images(), query=query):
            assert torch.allclose(unscaled(found).sum((2, 3)), torch.ones_like(found.scale), atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", MINIS)
def test_the_classifier_is_left_as_it_was(name: str, training: bool) -> None:
    classifier = mini(name)
    before = classifier(images())
    state = {key: value.clone() for key, value in classifier.state_dict().items()}
    classifier.network.train(training)
    modes = [module.training for module in classifier.modules()]
    models.attention_maps(classifier, images())
    assert [module.training for module in classifier.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in classifier.state_dict().items())
    assert not any(module._forward_hooks for module in classifier.modules())
    assert torch.equal(classifier.eval()(images()), before)


def test_a_failing_forward_leaves_no_hooks_and_no_mode() -> None:
    classifier = mini("dat_mini").train()
    with pytest.raises(ValueError, match="built for maps of 32 x 32, got 40 x 40"):
        models.attention_maps(classifier, images(side=40))
    assert classifier.training
    assert not any(module._forward_hooks for module in classifier.modules())


def test_no_gradient_is_kept() -> None:
    for found in models.attention_maps(mini("dat_mini"), images().requires_grad_()):
        assert found.points is not None
        assert not found.maps.requires_grad
        assert not found.points.requires_grad


# SAN


def reflected(place: int, size: int) -> int:
    place = abs(place)
    return place if place < size else 2 * (size - 1) - place


@pytest.mark.parametrize("query", [(0.5, 0.5), (0.2, 0.95), *CORNERS])
@pytest.mark.parametrize("make", [PairwiseAttention, PatchwiseAttention])
def test_a_footprint_is_drawn_where_its_taps_land(
    make: Callable[[int, int], PairwiseAttention | PatchwiseAttention], query: tuple[float, float]
) -> None:
    torch.manual_seed(0)
    layer = make(64, 5).eval()
    x = torch.randn(2, 64, 6, 9)
    weights = layer.attention(x).abs().mean(1)  # (N, k*k, H*W)
    y, x_ = min(int(query[0] * 6), 5), min(int(query[1] * 9), 8)
    want = torch.zeros(2, 1, 6, 9)
    for tap in range(25):
        row, column = reflected(y + tap // 5 - 2, 6), reflected(x_ + tap % 5 - 2, 9)
        want[:, 0, row, column] += weights[:, tap, y * 9 + x_]
    assert torch.allclose(unscaled(shown(layer, x, query)), want, atol=1e-6)


def test_uniform_weights_give_a_uniform_footprint() -> None:
    layer = PairwiseAttention(64, 3)
    zeroed(layer.conv_w)
    found = shown(layer, torch.randn(1, 64, 7, 7), (0.5, 0.5))
    want = torch.zeros(7, 7)
    want[2:5, 2:5] = 1
    assert torch.allclose(found.maps[0, 0], want)
    assert found.scale.item() == pytest.approx(1 / 9)
    corner = unscaled(shown(layer, torch.randn(1, 64, 7, 7), (0.0, 0.0)))[0, 0] * 9
    assert torch.allclose(corner[:3, :3], torch.tensor([[1.0, 2, 0], [2, 4, 0], [0, 0, 0]]), atol=1e-5)
    whole = shown(layer, torch.randn(1, 64, 7, 7))
    assert torch.allclose(unscaled(whole), torch.tensor((layer.maps / 9) ** 0.5))


def test_an_empty_map_stays_zero() -> None:
    layer = PatchwiseAttention(64, 3)
    zeroed(layer.conv_w)
    for query in (None, (0.5, 0.5)):
        found = shown(layer, torch.randn(1, 64, 7, 7), query)
        assert found.scale.item() == 0
        assert torch.equal(found.maps, torch.zeros(1, 1, 7, 7))


# AA-ResNet


def augmented(pools: int = 0) -> AugmentedConv2d:
    torch.manual_seed(0)
    return AugmentedConv2d(8, 8, key_dims=8, value_dims=4, heads=2, map_size=(6, 9), pools=pools).eval()


@pytest.mark.parametrize("query", [None, (0.5, 0.5)])
def test_augmented_attention_that_knows_nothing_is_uniform(query: tuple[float, float] | None) -> None:
    layer = augmented()
    zeroed(layer)
    found = shown(layer, torch.randn(1, 8, 6, 9), query)
    assert torch.allclose(unscaled(found), torch.full((1, 2, 6, 9), 1 / 54))


@pytest.mark.parametrize("pools", [0, 1])
@pytest.mark.parametrize("query", [(0.0, 0.0), (0.4, 0.8), (1.0, 1.0)])
def test_the_row_of_the_query_is_shown_and_of_all_queries_their_mean(pools: int, query: tuple[float, float]) -> None:
    layer, x = augmented(pools), torch.randn(2, 8, 6, 9)
    h, w = (3, 5) if pools else (6, 9)
    rows = layer.attention(x)
    index = min(int(query[0] * h), h - 1) * w + min(int(query[1] * w), w - 1)
    assert torch.allclose(unscaled(shown(layer, x, query)), rows[:, :, index].view(2, 2, h, w), atol=1e-6)
    assert torch.allclose(unscaled(shown(layer, x)), rows.mean(2).view(2, 2, h, w), atol=1e-6)


# DAT


def deformable(offset_range: float, height: int = 6, width: int = 9) -> DeformableAttention:
    torch.manual_seed(0)
    layer = DeformableAttention(16, 4, 2, (height, width), offset_kernel=3, offset_range=offset_range).eval()
    if offset_range:
        nn.init.normal_(cast(nn.Conv2d, layer.conv_offset[-1]).weight, std=2.0)
    return layer


@pytest.mark.parametrize("offset_range", [0.0, 2.0])
def test_points_are_where_the_image_was_sampled(offset_range: float) -> None:
    """A map whose values are the fractions of its pixel centres, sampled as the layer samples, says where that was."""
    layer, x = deformable(offset_range), torch.randn(2, 16, 6, 9)
    positions, _ = layer.attention(x)  # (N, groups, H, W, 2)
    ys, xs = (torch.arange(6) + 0.5) / 6, (torch.arange(9) + 0.5) / 9
    places = torch.stack([ys[:, None].expand(6, 9), xs.expand(6, 9)]).expand(2, 2, 6, 9)
    points = shown(layer, x).points
    assert points is not None
    assert points.shape == (2, 4, 54, 2)
    for head in range(4):
        where = positions[:, head // 2]  # heads 0 and 1 belong to group 0
        inside = (where.abs() <= 1).all(-1).flatten(1)
        sampled = F.grid_sample(places, where.flip(-1), align_corners=True).flatten(2).mT
        assert inside.float().mean() > 0.7
        assert torch.allclose(points[:, head][inside], sampled[inside], atol=1e-5)


def test_without_offsets_the_points_are_the_grid_slightly_drawn_in() -> None:
    """A cell's centre is at -1 + 1/H, but sampling puts -1 on the first pixel's centre: half a cell becomes (H-1)/2H of one."""
    points = shown(deformable(0.0), torch.randn(1, 16, 6, 9)).points
    assert points is not None
    assert points[0, 0, 0].tolist() == pytest.approx([(0.5 * 5 / 6 + 0.5) / 6, (0.5 * 8 / 9 + 0.5) / 9])
    assert points[0, 0, -1].tolist() == pytest.approx([1 - (0.5 * 5 / 6 + 0.5) / 6, 1 - (0.5 * 8 / 9 + 0.5) / 9])
    assert (points[0, 0].view(6, 9, 2)[1, 0] - points[0, 0, 0])[0].item() == pytest.approx(5 / 36)


@pytest.mark.parametrize("query", [(0.0, 0.0), (0.4, 0.8), (1.0, 1.0)])
def test_scores_are_those_of_the_query_and_of_all_queries_their_mean(query: tuple[float, float]) -> None:
    layer, x = deformable(2.0), torch.randn(2, 16, 6, 9)
    weights = layer.attention(x)[1]
    index = min(int(query[0] * 6), 5) * 9 + min(int(query[1] * 9), 8)
    of_query, of_all = shown(layer, x, query), shown(layer, x)
    for found, want in ((of_query, weights[:, :, index]), (of_all, weights.mean(2))):
        assert found.scores is not None
        assert torch.allclose(found.scores, want, atol=1e-6)
        assert torch.allclose(unscaled(found).flatten(2), want, atol=1e-6)


# Masks


@pytest.mark.parametrize("name", ["attention_mask_mini", "multi_attention_mask_mini"])
def test_masks_are_those_of_the_network_whatever_the_query(name: str) -> None:
    classifier = mini(name)
    network = cast(AttentionMaskNet, classifier.network)
    want = network.logits_and_masks(classifier.normalise(images()))[1]
    for query in (None, (1.0, 0.0)):
        (found,) = models.attention_maps(classifier, images(), query=query)
        assert torch.allclose(unscaled(found), want, atol=1e-6)


# Refusals


def test_an_unknown_layer_is_suggested_the_nearest() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown layer 'layer1.2.sam'. Did you mean 'layer1.\d.sam'\?.*layer2.0.sam"
    ):
        models.attention_maps(mini("san_mini_pairwise"), images(), layer="layer1.2.sam")


@pytest.mark.parametrize(
    "query", [(-0.01, 0.5), (0.5, 1.01), (float("nan"), 0.5), (0.5, float("inf")), (1e300, -1e300)]
)
def test_a_query_outside_the_image_is_refused(query: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="each a fraction from 0 to 1, got"):
        models.attention_maps(mini("san_mini_pairwise"), images(), query=query)


@pytest.mark.parametrize(
    ("name", "reason"), [("resnet_mini", "resnet_mini has no attention"), ("se_resnet34", "channel attention only")]
)
def test_a_model_without_spatial_attention_says_which_have_it(name: str, reason: str) -> None:
    for ask in (models.attention_layers, lambda each: models.attention_maps(each, images())):
        with pytest.raises(models.NoAttentionError, match=f"{reason}.*AA-ResNet, attention masks, DAT and SAN have"):
            ask(mini(name))


def test_a_dat_without_deformable_layers_has_nothing_to_show() -> None:
    network = models.create("dat_mini", num_classes=3, blocks=("LL", "LS", "LS"))
    with pytest.raises(models.NoAttentionError, match="dat_mini has attention within windows only, which is not drawn"):
        models.attention_layers(classifier_of(network, "dat_mini"))
