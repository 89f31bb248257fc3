"""Attention masks and channel attention: by hand, and as the backbones are published."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import models
from models.families.attention_mask import AttentionMaskNet, diversity_loss
from models.families.se_resnet import SEBlock, SqueezeExcitation
from tests.models.proposed import require_told


def network(name: str) -> AttentionMaskNet:
    return cast(AttentionMaskNet, models.create(name, num_classes=5)).double().eval()


@pytest.mark.parametrize(("name", "masks"), [("attention_mask_mini", 1), ("multi_attention_mask_mini", 4)])
def test_logits_are_those_of_the_masked_means(name: str, masks: int) -> None:
    net = network(name)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    logits, seen = net.logits_and_masks(images)
    assert seen.shape == (2, masks, 8, 8)
    assert 0 < seen.min() < seen.max() < 1
    features = net.features(images)
    means = [(features * mask.unsqueeze(1)).mean((2, 3)) for mask in seen.unbind(1)]
    assert torch.allclose(net.classifier(torch.cat(means, 1)), logits)
    assert torch.equal(net(images), logits)


def test_the_two_forms_are_those_of_the_tutorial() -> None:
    single, multi = network("attention_mask_resnet34"), network("multi_attention_mask_resnet34")
    assert [type(layer) for layer in single.classifier] == [nn.Dropout, nn.Linear]
    assert [type(layer) for layer in multi.classifier] == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert cast(nn.Linear, multi.classifier[0]).weight.shape == (256, 4 * 512)
    assert (single.attention.bias is None, multi.attention.bias is None) == (False, True)
    xavier = (6 / (512 + 4)) ** 0.5  # of a 1x1 convolution: fan in 512, fan out 4
    assert 0.95 * xavier < multi.attention.weight.abs().max() <= xavier


def test_resnet34_weights_of_torchvision_fit_the_backbone() -> None:
    backbone = models.create("resnet34", num_classes=3).state_dict()
    ours = network("attention_mask_resnet34").features
    missing, unexpected = ours.load_state_dict(backbone, strict=False)
    assert (missing, unexpected) == ([], ["fc.weight", "fc.bias"])


def diversity_by_hand(masks: Tensor) -> float:
    total, (n, count) = 0.0, masks.shape[:2]
    for image in masks:
        scaled = [mask / (mask.max() + 0.01) for mask in image]
        total += sum(float((a * b).sum()) ** 2 for i, a in enumerate(scaled) for j, b in enumerate(scaled) if i != j)
    return total / (n * count**2)


def test_diversity_loss_equals_a_loop() -> None:
    masks = torch.rand(3, 4, 2, 5, dtype=torch.float64)
    assert diversity_loss(masks).item() == pytest.approx(diversity_by_hand(masks), rel=1e-12)


def test_masks_without_overlap_cost_nothing() -> None:
    apart = torch.eye(4).view(1, 4, 2, 2)
    assert diversity_loss(apart).item() == 0
    assert diversity_loss(torch.zeros(1, 4, 2, 2)).item() == 0
    same = torch.ones(1, 2, 2, 2)
    assert diversity_loss(same).item() == pytest.approx((4 / 1.01**2) ** 2 / 2)


def test_diversity_loss_pulls_masks_apart() -> None:
    logits = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    start = diversity_loss(logits.sigmoid()).item()
    for _ in range(50):
        (gradient,) = torch.autograd.grad(diversity_loss(logits.sigmoid()), logits)
        logits = (logits - gradient).detach().requires_grad_()
    assert diversity_loss(logits.sigmoid()).item() < start / 10


def test_there_is_at_least_one_mask() -> None:
    with pytest.raises(ValueError, match="masks must be at least 1, got 0"):
        models.create("multi_attention_mask_mini", masks=0)


def test_squeeze_excitation_equals_a_loop() -> None:
    layer = SqueezeExcitation(8, 4).double()
    x = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    scaled = layer(x)
    for image, result in zip(x, scaled, strict=True):
        means = torch.stack([channel.mean() for channel in image])
        hidden = (layer.fc1.weight @ means + layer.fc1.bias).clamp(min=0)
        weights = 1 / (1 + torch.exp(-(layer.fc2.weight @ hidden + layer.fc2.bias)))
        assert torch.allclose(result, torch.stack([w * channel for w, channel in zip(weights, image, strict=True)]))


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_an_se_resnet_whose_weights_are_one_is_the_resnet(name: str) -> None:
    plain = models.create(name, num_classes=3).eval()
    squeezed = models.create(f"se_{name}", num_classes=3).eval()
    missing, unexpected = squeezed.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(".se.fc" in key for key in missing)
    for block in squeezed.modules():
        if isinstance(block, SEBlock):
            nn.init.zeros_(block.se.fc2.weight)
            nn.init.constant_(block.se.fc2.bias, 100)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(squeezed(images), plain(images), atol=1e-5)
    with torch.inference_mode():
        nn.init.constant_(cast(SEBlock, squeezed.get_submodule("layer1.0")).se.fc2.bias, -100)
        assert not torch.allclose(squeezed(images), plain(images), atol=1e-3)


def test_parameter_counts_of_se_resnets() -> None:
    """Two linear layers with biases for every block's C channels: 2 C^2 / 16 + C + C / 16 more than the ResNet."""
    blocks = {34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}
    for depth, counts in blocks.items():
        with torch.device("meta"):
            plain, squeezed = (models.create(f"{prefix}resnet{depth}") for prefix in ("", "se_"))
        channels = [64 * 2**stage * (1 if depth == 34 else 4) for stage in range(4)]
        more = sum(n * (2 * c * c // 16 + c + c // 16) for n, c in zip(counts, channels, strict=True))
        sizes = [sum(p.numel() for p in net.parameters()) for net in (plain, squeezed)]
        assert sizes[1] - sizes[0] == more


def test_dropout_only_in_training() -> None:
    net = network("attention_mask_mini")
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(net(images), net(images))
    net.classifier.train()
    assert not torch.equal(net(images), net(images))


TOLD: list[tuple[str, dict[str, Any]]] = [
    ("attention_mask_mini", {"masks": 3}),
    ("multi_attention_mask_mini", {"masks": 8, "hidden": 64}),
]


@pytest.mark.parametrize(("name", "options"), TOLD, ids=str)
def test_options_are_read_off_the_shapes(name: str, options: dict[str, Any]) -> None:
    require_told(name, options)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_the_tutorials_attention_mask_is_known_under_its_own_names(prefix: str, tmp_path: Path) -> None:
    ours = models.create("attention_mask_resnet34", num_classes=2).eval()
    backbone = [module for name, module in ours.features.named_children()]
    theirs = nn.Module()
    theirs.features = nn.Sequential(*backbone)
    theirs.attn_conv = nn.Sequential(ours.attention, nn.Sigmoid())
    theirs.fc = ours.classifier
    tensors = {f"{prefix}{name}": value for name, value in theirs.state_dict().items()}
    assert {f"{prefix}{name}" for name in ("features.0.weight", "attn_conv.0.weight", "fc.1.weight")} <= tensors.keys()
    torch.save(tensors, tmp_path / "a.pth")
    added = models.add(tmp_path / "a.pth", tmp_path, "a", accept_likely=True)
    assert added.card.architecture == "attention_mask_resnet34"
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(models.load(added.checkpoint.path).network(images), ours(images))
