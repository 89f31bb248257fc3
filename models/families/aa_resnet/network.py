"""Residual networks with attention augmented convolutions in their later stages."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

from torch import Tensor, nn

from models.families.aa_resnet.attention import MIN_KEY_DIMS, AugmentedConv2d, Positions
from models.families.resnet import ResNetMini
from models.registry import ModelSpec, create

PAPER = "Bello et al., ICCV 2019, arXiv:1904.09925"


@dataclass(frozen=True)
class Body:
    """A residual network before it is augmented.

    Attributes:
        layers: builds the layers from `num_classes`, in the order of their use; stages of blocks are named layer1, layer2, ...
        stem_stride: how many times smaller than the image the first stage's input is.
        first: index of the first stage with attention, from 0.
    """

    layers: Callable[[int], dict[str, nn.Module]]
    stem_stride: int
    first: int


class AAResNet(nn.Sequential):
    """A residual network with one attention augmented convolution in each block of its later stages.

    Args:
        num_classes: number of logits.
        body: the network to augment.
        kappa: key dimensions per output channel of a convolution; a head has at least 20.
        upsilon: value dimensions per output channel, above 0; 1 replaces the convolution. Both numbers of dimensions are rounded to
            the nearest multiple of heads.
        heads: number of heads of each attention.
        positions: "relative", "sine", "coord" or "none".
        image_size: height and width of the images in pixels; with relative positions, no other size is possible.
        pooled: attend at half the resolution in the first stage with attention, where the maps are largest.
        pool_first: in strided convolutions, pool before the attention instead of after it: a quarter of the positions, a sixteenth
            of the memory. Then no map is larger than the stage's: 28, 14 and 7 for images of 224.

    Raises:
        ValueError: kappa, upsilon, heads or image_size is out of range, or the positions are unknown.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        body: Body,
        kappa: float = 0.2,
        upsilon: float = 0.1,
        heads: int = 8,
        positions: Positions = "relative",
        image_size: int = 224,
        pooled: bool = False,
        pool_first: bool = False,
    ) -> None:
        if not (kappa > 0 and 0 < upsilon <= 1 and heads >= 1 and image_size >= 1):
            raise ValueError(
                "kappa must be above 0, upsilon in (0, 1], heads and image_size at least 1, "
                f"got {kappa=}, {upsilon=}, {heads=}, {image_size=}"
            )
        super().__init__()
        self.image_size = image_size if positions == "relative" else None
        for name, layer in body.layers(num_classes).items():
            self.add_module(name, layer)
        size = math.ceil(image_size / body.stem_stride)
        stages = [layer for name, layer in self.named_children() if name.startswith("layer")]
        for index, block in ((index, block) for index, stage in enumerate(stages) for block in stage.children()):
            name = "conv2" if hasattr(block, "conv3") else "conv1"
            conv = cast(nn.Conv2d, block.get_submodule(name))
            outputs, stride = conv.out_channels, conv.stride[0]
            if index >= body.first:
                augmented = AugmentedConv2d(
                    conv.in_channels,
                    outputs,
                    key_dims=max(_nearest_multiple(kappa * outputs, heads), MIN_KEY_DIMS * heads),
                    value_dims=max(_nearest_multiple(upsilon * outputs, heads), heads),
                    heads=heads,
                    map_size=(size, size),
                    stride=stride,
                    pools=int(pooled and index == body.first) + int(pool_first and stride > 1),
                    positions=positions,
                )
                block.add_module(name, augmented)
            size = math.ceil(size / stride)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name in nn.Sequential)
        """Classify normalised images (N, 3, H, W); returns logits (N, num_classes).

        Raises:
            ValueError: the relative positions are for another image size.
        """
        size = self.image_size
        if size is not None and input.shape[-2:] != (size, size):
            got = " x ".join(str(side) for side in input.shape[-2:])
            raise ValueError(f"this network was built for images of {size} x {size} (option image_size), got {got}")
        return super().forward(input)


def _nearest_multiple(value: float, divisor: int) -> int:
    return int(value / divisor + 0.5) * divisor


def _plain(name: str, num_classes: int) -> dict[str, nn.Module]:
    """Take one of the plain ImageNet networks apart."""
    layers = dict(create(name, num_classes=num_classes).named_children())
    fc = layers.pop("fc")
    return {**layers, "flatten": nn.Flatten(), "fc": fc}


# Pooling before attention gives maps of 28, 14 and 7, and 9.5 GFLOPs for AA-ResNet-50 (8.3 are published); pooling after it gives
# 13.5 and takes a gigabyte of memory per image. Both have the published numbers of parameters.
def _imagenet(depth: int, published: float, kappa: float = 0.2, upsilon: float = 0.1) -> ModelSpec:
    body = Body(partial(_plain, f"resnet{depth}"), stem_stride=4, first=1)
    build = partial(AAResNet, body=body, kappa=kappa, upsilon=upsilon, pool_first=True)
    return ModelSpec(f"aa_resnet{depth}", build, (3, 224, 224), PAPER, (published,))


class WideBlock(nn.Module):
    """Pre-activation block of wide ResNets (Zagoruyko, Komodakis, BMVC 2016, arXiv:1605.07146), without dropout."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, width, 1, stride, bias=False) if inputs != width else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, width, H/stride, W/stride)."""
        activated = self.bn1(x).relu()
        residual = self.conv2(self.bn2(self.conv1(activated)).relu())
        return residual + (x if self.shortcut is None else self.shortcut(activated))


def _wide(blocks: int, factor: int, num_classes: int) -> dict[str, nn.Module]:
    widths = [16, 16 * factor, 32 * factor, 64 * factor]
    layers: dict[str, nn.Module] = {"conv1": nn.Conv2d(3, 16, 3, padding=1, bias=False)}
    for index in range(3):
        first = WideBlock(widths[index], widths[index + 1], stride=1 if index == 0 else 2)
        rest = (WideBlock(widths[index + 1], widths[index + 1], stride=1) for _ in range(blocks - 1))
        layers[f"layer{index + 1}"] = nn.Sequential(first, *rest)
    head = {"bn1": nn.BatchNorm2d(widths[-1]), "relu": nn.ReLU(inplace=True), "avgpool": nn.AdaptiveAvgPool2d(1)}
    return {**layers, **head, "flatten": nn.Flatten(), "fc": nn.Linear(widths[-1], num_classes)}


def _mini(num_classes: int) -> dict[str, nn.Module]:
    """Take `resnet_mini` apart, the stages under torchvision's names."""
    network = ResNetMini(num_classes)
    conv1, bn1, relu = network.stem
    stages = {f"layer{index}": stage for index, stage in enumerate(network.stages, 1)}
    head = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": network.fc}
    return {"conv1": conv1, "bn1": bn1, "relu": relu, **stages, **head}


_wide_28_10 = partial(AAResNet, body=Body(partial(_wide, 4, 10), stem_stride=1, first=0), image_size=32)
_small = partial(
    AAResNet,
    body=Body(_mini, stem_stride=2, first=1),
    kappa=0.25,
    upsilon=0.25,
    heads=2,
    image_size=32,
    pool_first=True,
)

ARCHITECTURES = (
    _imagenet(34, 74.7, kappa=0.25, upsilon=0.25),
    _imagenet(50, 77.7),
    _imagenet(101, 78.7),
    _imagenet(152, 79.1),
    ModelSpec("aa_wide_resnet28_10", _wide_28_10, (3, 32, 32), PAPER),
    ModelSpec("aa_resnet_mini", _small, (3, 32, 32), PAPER),
)
