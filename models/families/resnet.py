"""ResNet (He, Zhang, Ren, Sun, CVPR 2016, arXiv:1512.03385).

These are torchvision's own classes, so its state dicts load unchanged; the small network needs none of them. ResNet-26 and -38 are
the baselines of the SAN paper (Zhao, Jia, Koltun, CVPR 2020, arXiv:2004.13621, Table 2): bottleneck blocks with the stride in the
3x3 convolution.
"""

import importlib
import re
from collections.abc import Iterator, Sequence
from functools import partial
from types import ModuleType
from typing import Literal

from torch import Tensor, nn

from models.recognition.layout import Layout, require
from models.recognition.proposals import Candidate, Options, Question
from models.registry import Family, ModelSpec, register_family, without_defaults

PAPER = "He et al., CVPR 2016, arXiv:1512.03385"

Block = Literal["BasicBlock", "Bottleneck"]

IMAGENET_SIZES: dict[int, tuple[Block, list[int]]] = {
    18: ("BasicBlock", [2, 2, 2, 2]),
    26: ("Bottleneck", [1, 2, 4, 1]),
    34: ("BasicBlock", [3, 4, 6, 3]),
    38: ("Bottleneck", [2, 3, 5, 2]),
    50: ("Bottleneck", [3, 4, 6, 3]),
    101: ("Bottleneck", [3, 4, 23, 3]),
    152: ("Bottleneck", [3, 8, 36, 3]),
}
"""Class of the blocks and number of them per stage, by depth."""


def resnet(num_classes: int, *, block: Block, layers: list[int]) -> nn.Module:
    """Build torchvision's ResNet."""
    return _torchvision().ResNet(getattr(_torchvision(), block), layers, num_classes=num_classes)


def _torchvision() -> ModuleType:
    """Import torchvision's module only when a network is built: it takes seconds, and many commands build none."""
    return importlib.import_module("torchvision.models.resnet")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, with torchvision's names; importing torchvision's takes seconds.

    Args:
        inputs: channels of the input.
        width: channels of the output.
        stride: of the first convolution.
        downsample: the shortcut, where the shape changes.
    """

    def __init__(self, inputs: int, width: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, width, H/stride, W/stride)."""
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(residual + (x if self.downsample is None else self.downsample(x)))


_PUBLISHED = {26: (73.6, 91.7), 38: (76.0, 93.0), 50: (76.9, 93.5)}
"""By the SAN paper, which trained them as it trained its own."""


class ResNetMini(nn.Module):
    """A narrow ResNet with three stages for 32x32 images, after Sec. 4.2 of the paper.

    Unlike the paper's CIFAR networks, it has a stride of 2 in the stem and projection shortcuts.

    Args:
        num_classes: number of logits.
        widths: channels of the three stages.
        blocks: basic blocks in each stage.
        strides: of the stages, after the stem's 2.
    """

    def __init__(
        self,
        num_classes: int,
        widths: Sequence[int] = (32, 64, 128),
        blocks: int = 2,
        strides: Sequence[int] = (1, 2, 2),
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        inputs = [widths[0], *widths[:-1]]
        self.stages = nn.Sequential(
            *(
                _stage(before, after, blocks, stride=stride)
                for before, after, stride in zip(inputs, widths, strides, strict=True)
            )
        )
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify normalised images (N, 3, H, W); returns logits (N, num_classes)."""
        features = self.stages(self.stem(images))  # (N, C, H/8, W/8) at the default strides
        return self.fc(features.mean((2, 3)))


def _stage(inputs: int, width: int, blocks: int, *, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or inputs != width:
        shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
    first = BasicBlock(inputs, width, stride=stride, downsample=shortcut)
    return nn.Sequential(first, *(BasicBlock(width, width) for _ in range(blocks - 1)))


LIKE_RESNET = (
    "wide_resnet50_2",
    "wide_resnet101_2",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
)
"""Of torchvision alone, with the tensors' names of our own ResNets."""

_PLAIN = re.compile(r"(conv1|bn1|fc|layer[1-4]\.\d+\.(conv[1-3]|bn[1-3]|downsample\.[01]))\.\w+")
"""Names of a plain residual network's tensors; networks made from one have others too."""


def depth_of(at: Layout) -> int:
    """Find the depth of a residual network with torchvision's names from its blocks.

    Raises:
        NotMineError: no depth has these blocks.
    """
    block = "Bottleneck" if "layer1.0.conv3.weight" in at else "BasicBlock"
    layers = [len(at.indices(f"layer{index}.")) for index in range(1, 5)]
    depths = [depth for depth, size in IMAGENET_SIZES.items() if size == (block, layers)]
    require(depths)
    return depths[0]


def _propose(at: Layout) -> Iterator[Candidate]:
    if "stem.0.weight" in at:
        yield _propose_mini(at)
        return
    require(all(map(_PLAIN.fullmatch, at)))
    yield Candidate(f"resnet{depth_of(at)}", {}, "fc.weight")
    for name in LIKE_RESNET if "layer1.0.conv3.weight" in at else ():
        yield Candidate(f"torchvision:{name}", {}, "fc.weight")


def _propose_mini(at: Layout) -> Candidate:
    stages = at.indices("stages.")
    widths = [at.side(f"stages.{index}.0.conv1.weight") for index in stages]
    before = [at.side("stem.0.weight"), *widths[:-1]]
    strides = [1 if a == b else 2 for a, b in zip(before, widths, strict=True)]
    options: Options = {"widths": widths, "blocks": len(at.indices("stages.0."))}
    likely: list[int] = [1, 2, 2] if len(widths) == 3 else strides
    question = Question("options.strides", "strides leave no trace in shapes", likely, "1 or 2 for each stage")
    stripped = without_defaults("resnet_mini", {**options, "strides": likely})
    return Candidate("resnet_mini", stripped, "fc.weight", (question,))


def _imagenet(depth: int, block: Block, layers: list[int]) -> ModelSpec:
    build = partial(resnet, block=block, layers=layers)
    return ModelSpec(f"resnet{depth}", build, (3, 224, 224), PAPER, _PUBLISHED.get(depth, ()))


register_family(
    Family(
        name="ResNet",
        architectures=(
            *(_imagenet(depth, *size) for depth, size in IMAGENET_SIZES.items()),
            ModelSpec("resnet_mini", ResNetMini, (3, 32, 32), PAPER),
        ),
        propose=_propose,
    )
)
