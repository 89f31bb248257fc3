"""SAN, self-attention networks for image recognition (Zhao, Jia, Koltun, CVPR 2020, arXiv:2004.13621).

Every position i aggregates its footprint R(i) with a vector of weights: y_i = sum over j in R(i) of alpha_j * beta(x_j), one weight
map for every 8 channels. *Pairwise* attention computes alpha_j from x_i - x_j and their positions; *patchwise* attention computes
all weights of a footprint at once from the whole footprint. Names of parameters are those of the authors' checkpoints.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from common import unknown_name
from models._registry import ModelSpec, register
from models.ops.neighbourhood import aggregation, gather_taps, subtraction

PAPER = "Zhao, Jia, Koltun, CVPR 2020, arXiv:2004.13621"
R1, R2, SHARE = 16, 4, 8
"""Reductions of the relation and value channels, and channels that share one weight map (Sec. 4)."""

Kind = Literal["pairwise", "patchwise"]


class _Attention(nn.Module):
    """The layers that both kinds share.

    Args:
        channels: of the input, a multiple of R2 * SHARE; the output has channels // R2.
        kernel_size: odd footprint.
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.relation = channels // R1
        self.maps = channels // R2 // SHARE
        self.conv1 = nn.Conv2d(channels, self.relation, 1)  # phi, the centre
        self.conv2 = nn.Conv2d(channels, self.relation, 1)  # psi, the neighbour
        self.conv3 = nn.Conv2d(channels, channels // R2, 1)  # beta


class PairwiseAttention(_Attention):
    """Pairwise self-attention with the subtraction relation and relative positions (Sec. 3.1)."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, kernel_size)
        self.conv_w = _mapping(self.relation + 2, self.relation, self.maps)  # gamma
        self.conv_p = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (N, C, H, W) -> (N, C/R2, H, W)."""
        relation = subtraction(self.conv1(x), self.conv2(x), self.kernel_size)  # (N, C/R1, k*k, H*W)
        positions = self.conv_p(_coordinates(x))  # (1, 2, H, W)
        offsets = subtraction(positions, positions, self.kernel_size).expand(len(x), -1, -1, -1)
        logits = self.conv_w(torch.cat([relation, offsets], 1))  # (N, maps, k*k, H*W)
        return aggregation(self.conv3(x), logits.softmax(2), self.kernel_size)


class PatchwiseAttention(_Attention):
    """Patchwise self-attention with the concatenation relation (Sec. 3.2); its weights are not normalised."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, kernel_size)
        taps = kernel_size**2
        self.conv_w = _mapping(self.relation * (taps + 1), self.maps, self.maps * taps)  # gamma

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (N, C, H, W) -> (N, C/R2, H, W)."""
        centre = self.conv1(x).flatten(2)  # (N, C/R1, H*W)
        footprint = gather_taps(self.conv2(x), self.kernel_size)  # (N, C/R1*k*k, H*W)
        weights = self.conv_w(torch.cat([centre, footprint], 1).unsqueeze(2))  # (N, maps*k*k, 1, H*W)
        weights = weights.view(len(x), self.maps, self.kernel_size**2, centre.shape[-1])  # (N, maps, k*k, H*W)
        return aggregation(self.conv3(x), weights, self.kernel_size)


_ATTENTIONS: dict[Kind, type[PairwiseAttention | PatchwiseAttention]] = {
    "pairwise": PairwiseAttention,
    "patchwise": PatchwiseAttention,
}


def _mapping(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Gamma: two linear layers, each after a norm and a ReLU; only the second has a bias."""
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, hidden, 1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, outputs, 1),
    )


def _coordinates(x: Tensor) -> Tensor:
    """Positions from -1 to 1 with the corner pixels at the ends: (1, 2, H, W), x before y."""
    h, w = x.shape[-2:]
    ys = torch.linspace(-1, 1, h, dtype=x.dtype, device=x.device)
    xs = torch.linspace(-1, 1, w, dtype=x.dtype, device=x.device)
    return torch.stack([xs.expand(h, w), ys.unsqueeze(1).expand(h, w)]).unsqueeze(0)


class Block(nn.Module):
    """Pre-activation residual block: norm, ReLU, attention, norm, ReLU, 1x1 convolution (Fig. 2)."""

    def __init__(
        self, attention: type[PairwiseAttention | PatchwiseAttention], channels: int, kernel_size: int
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.sam = attention(channels, kernel_size)
        self.bn2 = nn.BatchNorm2d(channels // R2)
        self.conv = nn.Conv2d(channels // R2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        attended = self.sam(self.bn1(x).relu())
        return x + self.conv(self.bn2(attended).relu())


class SAN(nn.Module):
    """A self-attention network; every stage halves the resolution before its blocks (Table 1).

    Args:
        num_classes: number of logits.
        kind: "pairwise" or "patchwise".
        blocks: attention blocks in each stage.
        footprints: odd footprint of each stage; the map of a stage must be larger than footprint // 2.
        widths: channels of each stage, multiples of 32.
        stem_width: channels at full resolution.

    Raises:
        ValueError: the kind is unknown, a width is not a multiple of 32, or the stages are not equally many everywhere.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        kind: Kind,
        blocks: Sequence[int],
        footprints: Sequence[int] = (3, 7, 7, 7, 7),
        widths: Sequence[int] = (64, 256, 512, 1024, 2048),
        stem_width: int = 64,
    ) -> None:
        super().__init__()
        if kind not in _ATTENTIONS:
            raise unknown_name("kind of attention", kind, _ATTENTIONS)
        if any(width % (R2 * SHARE) for width in widths):
            raise ValueError(f"widths must be multiples of {R2 * SHARE}, got {tuple(widths)}")
        attention = _ATTENTIONS[kind]
        self.stages = len(blocks)
        self.conv_in = nn.Conv2d(3, stem_width, 1, bias=False)
        self.bn_in = nn.BatchNorm2d(stem_width)
        inputs = [stem_width, *widths[:-1]]
        for index, (before, width, count, footprint) in enumerate(zip(inputs, widths, blocks, footprints, strict=True)):
            self.add_module(f"conv{index}", nn.Conv2d(before, width, 1, bias=False))
            self.add_module(f"layer{index}", nn.Sequential(*(Block(attention, width, footprint) for _ in range(count))))
            self.add_module(f"bn{index}", nn.BatchNorm2d(width))
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify normalised images (N, 3, H, W); returns logits (N, num_classes)."""
        x = self.bn_in(self.conv_in(images)).relu()
        for index in range(self.stages):
            x = self.get_submodule(f"conv{index}")(nn.functional.max_pool2d(x, 2))
            x = self.get_submodule(f"layer{index}")(x)  # (N, widths[index], H/2^(index+1), W/2^(index+1))
            x = self.get_submodule(f"bn{index}")(x).relu()
        return self.fc(x.mean((2, 3)))


_BLOCKS = {"10": (2, 1, 2, 4, 1), "15": (3, 2, 3, 5, 2), "19": (3, 3, 4, 6, 3)}
_KINDS: tuple[Kind, ...] = ("pairwise", "patchwise")

for _kind in _KINDS:
    for _size, _blocks in _BLOCKS.items():
        register(ModelSpec(f"san{_size}_{_kind}", partial(SAN, kind=_kind, blocks=_blocks), (3, 224, 224), PAPER))
    _mini = partial(SAN, kind=_kind, blocks=(1, 2, 1), footprints=(3, 5, 5), widths=(64, 128, 256), stem_width=32)
    register(ModelSpec(f"san_mini_{_kind}", _mini, (3, 32, 32), PAPER))
