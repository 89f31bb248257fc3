"""SE-ResNet: channel attention in every block (Hu, Shen, Sun, CVPR 2018, arXiv:1709.01507).

A block's output is pooled, squeezed through two fully connected layers, and its channels are scaled by the sigmoid of the result,
before the shortcut is added. The rest is torchvision's ResNet under its own names.
"""

from collections.abc import Iterator
from functools import partial
from typing import cast

from torch import Tensor, nn

from models.families.resnet import IMAGENET_SIZES, depth_of, resnet
from models.recognition.layout import Layout, ratio, require
from models.recognition.proposals import Candidate
from models.registry import Family, ModelSpec, register_family, without_defaults

PAPER = "Hu, Shen, Sun, CVPR 2018, arXiv:1709.01507"


class SqueezeExcitation(nn.Module):
    """Scale every channel by a weight in (0, 1) computed from the means of all channels (Sec. 3).

    Args:
        channels: of the map.
        reduction: the hidden layer has channels // reduction units.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels // reduction)
        self.fc2 = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        weights = self.fc2(self.fc1(x.mean((2, 3))).relu()).sigmoid()  # (N, C)
        return x * weights[:, :, None, None]


class SEBlock(nn.Module):
    """A torchvision residual block with channel attention before the addition; the names of its layers stay.

    Args:
        block: a BasicBlock or Bottleneck, whose layers are used.
        reduction: of the channel attention.
    """

    def __init__(self, block: nn.Module, reduction: int) -> None:
        super().__init__()
        for name, layer in block.named_children():
            self.add_module(name, layer)
        self.convolutions = sum(name.startswith("conv") for name, _ in block.named_children())
        norm = block.get_submodule(f"bn{self.convolutions}")
        self.se = SqueezeExcitation(cast(int, norm.num_features), reduction)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H', W')."""
        shortcut = self.get_submodule("downsample")(x) if "downsample" in self._modules else x
        for index in range(1, self.convolutions + 1):
            x = self.get_submodule(f"bn{index}")(self.get_submodule(f"conv{index}")(x))
            x = x.relu() if index < self.convolutions else self.se(x)
        return (x + shortcut).relu()


def _se_resnet(num_classes: int, *, depth: int, reduction: int = 16) -> nn.Module:
    block, layers = IMAGENET_SIZES[depth]
    network = resnet(num_classes, block=block, layers=layers)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        blocks = network.get_submodule(name).children()
        network.add_module(name, nn.Sequential(*(SEBlock(block, reduction) for block in blocks)))
    return network


_DEPTHS = (34, 50, 101, 152)


def _propose(at: Layout) -> Iterator[Candidate]:
    squeezed, depth = "layer4.0.se.fc1.weight", depth_of(at)
    require(depth in _DEPTHS)
    name = f"se_resnet{depth}"
    reduction = ratio(at.side(squeezed, 1), at.side(squeezed))
    yield Candidate(name, without_defaults(name, {"reduction": reduction}), "fc.weight")


register_family(
    Family(
        name="SE-ResNet",
        architectures=tuple(
            ModelSpec(f"se_resnet{depth}", partial(_se_resnet, depth=depth), (3, 224, 224), PAPER) for depth in _DEPTHS
        ),
        propose=_propose,
        unshown={SqueezeExcitation: "channel attention only, no spatial attention"},
    )
)
