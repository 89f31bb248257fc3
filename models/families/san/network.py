"""SAN, self-attention networks for image recognition (Zhao, Jia, Koltun, CVPR 2020, arXiv:2004.13621).

Every position i aggregates its footprint R(i) with a vector of weights: y_i = sum over j in R(i) of alpha_j * beta(x_j), one weight
map for every 8 channels. *Pairwise* attention computes alpha_j from x_i - x_j and their positions; *patchwise* attention computes
all weights of a footprint at once from the whole footprint. Names of parameters are those of the authors' checkpoints.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from common import unknown_name
from models.ops.neighbourhood import aggregation, gather_taps, subtraction
from models.registry import ModelSpec

PAPER = "Zhao, Jia, Koltun, CVPR 2020, arXiv:2004.13621"

Kind = Literal["pairwise", "patchwise"]
RELATIONS: dict[Kind, tuple[str, ...]] = {
    "pairwise": ("subtraction", "summation", "concatenation", "hadamard", "dot"),
    "patchwise": ("concatenation", "star", "clique"),
}
"""Relation functions delta (Sec. 3.1 and 3.2), the published one first."""
TRANSFORMS = ("distinct", "tied", "all_tied")
"""Whether phi, psi and beta are three convolutions (published), phi = psi, or phi = psi = beta."""
POSITIONS = ("relative", "absolute", "none")
"""Position term of pairwise attention: p_i - p_j (published), both p_i and p_j, or none."""


@dataclass(frozen=True, kw_only=True)
class AttentionOptions:
    """The choices of the paper's ablations (Sec. 5.3); the defaults are the published ones.

    Attributes:
        relation: one of RELATIONS; None for the published one of the kind.
        mapping_layers: linear layers of gamma, 1 to 3.
        transforms: one of TRANSFORMS.
        position: one of POSITIONS; patchwise attention has none.
        r1: reduction of the relation's channels.
        r2: reduction of the value's channels.
        share: channels that use the same weight map.

    Raises:
        ValueError: a choice does not exist.
    """

    relation: str | None = None
    mapping_layers: int = 2
    transforms: str = "distinct"
    position: str = "relative"
    r1: int = 16
    r2: int = 4
    share: int = 8

    def __post_init__(self) -> None:
        if self.transforms not in TRANSFORMS:
            raise unknown_name("transforms", self.transforms, TRANSFORMS)
        if self.position not in POSITIONS:
            raise unknown_name("position encoding", self.position, POSITIONS)
        if not 1 <= self.mapping_layers <= 3:
            raise ValueError(f"mapping_layers must be 1, 2 or 3, got {self.mapping_layers}")
        if min(self.r1, self.r2, self.share) < 1:
            raise ValueError(f"r1, r2 and share must be at least 1, got {self.r1}, {self.r2} and {self.share}")

    def relation_of(self, kind: Kind) -> str:
        """Return the relation, checked against what the kind of attention has."""
        relation = self.relation or RELATIONS[kind][0]
        if relation not in RELATIONS[kind]:
            raise unknown_name(f"{kind} relation", relation, RELATIONS[kind])
        return relation


PUBLISHED = AttentionOptions()


class _Attention(nn.Module, ABC):
    """The layers that both kinds share.

    Args:
        channels: of the input; the output has channels // r2.
        kernel_size: odd footprint.
        kind: whose relations are allowed.
        options: the paper's ablations.
    """

    def __init__(self, channels: int, kernel_size: int, kind: Kind, options: AttentionOptions) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.kernel_size, self.options = kernel_size, options
        self.relation_name = options.relation_of(kind)
        self.maps = channels // options.r2 // options.share
        all_tied = options.transforms == "all_tied"
        self.relation = channels // (options.r2 if all_tied else options.r1)
        if not all_tied:
            self.conv1 = nn.Conv2d(channels, self.relation, 1)  # phi, the centre
        if options.transforms == "distinct":
            self.conv2 = nn.Conv2d(channels, self.relation, 1)  # psi, the neighbour
        self.conv3 = nn.Conv2d(channels, channels // options.r2, 1)  # beta

    @property
    def is_published(self) -> bool:
        """Whether this is the attention of the published networks, whatever its reductions."""
        reductions = {"r1": self.options.r1, "r2": self.options.r2, "share": self.options.share}
        relation = self.options.relation and RELATIONS[self.kind][0]
        return self.options == replace(PUBLISHED, relation=relation, **reductions)

    def transform(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute phi(x) and psi(x), (N, relation, H, W), and beta(x), (N, C/r2, H, W)."""
        values = self.conv3(x)
        centres = values if self.options.transforms == "all_tied" else self.conv1(x)
        neighbours = self.conv2(x) if self.options.transforms == "distinct" else centres
        return centres, neighbours, values

    def attention(self, x: Tensor) -> Tensor:
        """Compute the weights of every position's footprint: (N, maps, k*k, H*W)."""
        centres, neighbours, _ = self.transform(x)
        return self.weights(centres, neighbours)

    @abstractmethod
    def weights(self, centres: Tensor, neighbours: Tensor) -> Tensor:
        """Compute the weights from phi(x) and psi(x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (N, C, H, W) -> (N, C/r2, H, W)."""
        centres, neighbours, values = self.transform(x)
        return aggregation(values, self.weights(centres, neighbours), self.kernel_size)

    def own_macs(self, x: Tensor) -> int:
        """Multiplications of the aggregation and of a product relation, which are not in any linear layer."""
        taps, pixels = self.kernel_size**2, x.shape[0] * x.shape[2] * x.shape[3]
        products = {"hadamard": taps, "dot": taps, "star": taps}.get(self.relation_name, 0)
        return (taps * self.conv3.out_channels + products * self.relation) * pixels


class PairwiseAttention(_Attention):
    """Pairwise self-attention (Sec. 3.1); published with the subtraction relation and relative positions."""

    def __init__(self, channels: int, kernel_size: int, options: AttentionOptions = PUBLISHED) -> None:
        super().__init__(channels, kernel_size, "pairwise", options)
        inputs = {"concatenation": 2 * self.relation, "dot": 1}.get(self.relation_name, self.relation)
        inputs += {"relative": 2, "absolute": 4, "none": 0}[options.position]
        self.conv_w = _mapping(inputs, self.relation, self.maps, layers=options.mapping_layers)  # gamma
        if options.position != "none":
            self.conv_p = nn.Conv2d(2, 2, 1)

    def weights(self, centres: Tensor, neighbours: Tensor) -> Tensor:
        """Compute the weights, which sum to one over the footprint, from phi(x) and psi(x)."""
        features = [_relate(self.relation_name, centres, neighbours, self.kernel_size)]  # (N, ., k*k, H*W)
        if self.options.position != "none":
            features.append(self._positions(centres).expand(len(centres), -1, -1, -1))
        return self.conv_w(torch.cat(features, 1)).softmax(2)

    def _positions(self, like: Tensor) -> Tensor:
        positions = self.conv_p(_coordinates(like))  # (1, 2, H, W)
        relation = "subtraction" if self.options.position == "relative" else "concatenation"
        return _relate(relation, positions, positions, self.kernel_size)


class PatchwiseAttention(_Attention):
    """Patchwise self-attention (Sec. 3.2), published with the concatenation relation; its weights are not normalised."""

    def __init__(self, channels: int, kernel_size: int, options: AttentionOptions = PUBLISHED) -> None:
        super().__init__(channels, kernel_size, "patchwise", options)
        taps = kernel_size**2
        inputs = {"concatenation": self.relation * (taps + 1), "star": taps, "clique": taps**2}[self.relation_name]
        self.conv_w = _mapping(inputs, self.maps, self.maps * taps, layers=options.mapping_layers)  # gamma

    def weights(self, centres: Tensor, neighbours: Tensor) -> Tensor:
        """Compute all weights of a footprint at once from phi(x) and psi(x)."""
        relation = self._relation(centres, neighbours)  # (N, ., H*W)
        weights = self.conv_w(relation.unsqueeze(2))  # (N, maps*k*k, 1, H*W)
        return weights.view(len(centres), self.maps, self.kernel_size**2, -1)

    def _relation(self, centres: Tensor, neighbours: Tensor) -> Tensor:
        footprint = gather_taps(neighbours, self.kernel_size)  # (N, C/r1*k*k, H*W), channel-major
        if self.relation_name == "concatenation":
            return torch.cat([centres.flatten(2), footprint], 1)
        psi = footprint.view(len(centres), self.relation, -1, footprint.shape[-1])  # (N, C/r1, k*k, H*W)
        if self.relation_name == "star":
            return (centres.flatten(2).unsqueeze(2) * psi).sum(1)  # (N, k*k, H*W)
        phi = gather_taps(centres, self.kernel_size).view_as(psi)
        return torch.einsum("ncjp,nckp->njkp", phi, psi).flatten(1, 2)  # (N, k^4, H*W)


_ATTENTIONS: dict[Kind, type[PairwiseAttention | PatchwiseAttention]] = {
    "pairwise": PairwiseAttention,
    "patchwise": PatchwiseAttention,
}


def _relate(relation: str, centres: Tensor, neighbours: Tensor, kernel_size: int) -> Tensor:
    """Apply a pairwise relation to every centre and each of its taps: (N, C, H, W) twice -> (N, C', k*k, H*W)."""
    if relation == "subtraction":
        return subtraction(centres, neighbours, kernel_size)
    if relation == "summation":
        return subtraction(centres, -neighbours, kernel_size)
    phi = centres.flatten(2).unsqueeze(2)  # (N, C, 1, H*W)
    psi = gather_taps(neighbours, kernel_size).view(*centres.shape[:2], kernel_size**2, -1)
    if relation == "concatenation":
        return torch.cat([phi.expand_as(psi), psi], 1)
    product = phi * psi
    return product.sum(1, keepdim=True) if relation == "dot" else product


def _mapping(inputs: int, hidden: int, outputs: int, *, layers: int) -> nn.Sequential:
    """Gamma: linear layers, each after a norm and a ReLU; only the last has a bias."""
    widths = [inputs] + [hidden] * (layers - 1) + [outputs]
    parts: list[nn.Module] = []
    for index, (before, after) in enumerate(pairwise(widths), start=1):
        parts += [nn.BatchNorm2d(before), nn.ReLU(inplace=True), nn.Conv2d(before, after, 1, bias=index == layers)]
    return nn.Sequential(*parts)


def _coordinates(x: Tensor) -> Tensor:
    """Positions from -1 to 1 with the corner pixels at the ends: (1, 2, H, W), x before y."""
    h, w = x.shape[-2:]
    ys = torch.linspace(-1, 1, h, dtype=x.dtype, device=x.device)
    xs = torch.linspace(-1, 1, w, dtype=x.dtype, device=x.device)
    return torch.stack([xs.expand(h, w), ys.unsqueeze(1).expand(h, w)]).unsqueeze(0)


class Block(nn.Module):
    """Pre-activation residual block: norm, ReLU, attention, norm, ReLU, 1x1 convolution (Fig. 2)."""

    def __init__(
        self,
        attention: type[PairwiseAttention | PatchwiseAttention],
        channels: int,
        kernel_size: int,
        options: AttentionOptions,
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.sam = attention(channels, kernel_size, options)
        self.bn2 = nn.BatchNorm2d(channels // options.r2)
        self.conv = nn.Conv2d(channels // options.r2, channels, 1)

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
        widths: channels of each stage, multiples of r1 and of r2 * share.
        stem_width: channels at full resolution.
        relation, mapping_layers, transforms, position, r1, r2, share: as in AttentionOptions.

    Raises:
        ValueError: a choice does not exist, a width does not fit, or blocks, footprints and widths differ in number.
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
        relation: str | None = None,
        mapping_layers: int = 2,
        transforms: str = "distinct",
        position: str = "relative",
        r1: int = 16,
        r2: int = 4,
        share: int = 8,
    ) -> None:
        super().__init__()
        if kind not in _ATTENTIONS:
            raise unknown_name("kind of attention", kind, _ATTENTIONS)
        options = AttentionOptions(
            relation=relation,
            mapping_layers=mapping_layers,
            transforms=transforms,
            position=position,
            r1=r1,
            r2=r2,
            share=share,
        )
        step = math.lcm(r1, r2 * share)
        if any(width % step for width in widths):
            raise ValueError(f"widths must be multiples of {step}, got {tuple(widths)}")
        attention = _ATTENTIONS[kind]
        self.stages = len(blocks)
        self.conv_in = nn.Conv2d(3, stem_width, 1, bias=False)
        self.bn_in = nn.BatchNorm2d(stem_width)
        inputs = [stem_width, *widths[:-1]]
        for index, (before, width, count, footprint) in enumerate(zip(inputs, widths, blocks, footprints, strict=True)):
            self.add_module(f"conv{index}", nn.Conv2d(before, width, 1, bias=False))
            self.add_module(
                f"layer{index}", nn.Sequential(*(Block(attention, width, footprint, options) for _ in range(count)))
            )
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


_PUBLISHED = {  # in the authors' repository
    "san10_pairwise": (74.9, 92.1),
    "san10_patchwise": (77.1, 93.5),
    "san15_pairwise": (76.6, 93.1),
    "san15_patchwise": (78.0, 93.9),
    "san19_pairwise": (76.9, 93.4),
    "san19_patchwise": (78.2, 93.9),
}
_BLOCKS = {"10": (2, 1, 2, 4, 1), "15": (3, 2, 3, 5, 2), "19": (3, 3, 4, 6, 3)}
_KINDS: tuple[Kind, ...] = ("pairwise", "patchwise")


def _architectures(kind: Kind) -> Iterator[ModelSpec]:
    for size, blocks in _BLOCKS.items():
        name = f"san{size}_{kind}"
        yield ModelSpec(name, partial(SAN, kind=kind, blocks=blocks), (3, 224, 224), PAPER, _PUBLISHED[name])
    mini = partial(SAN, kind=kind, blocks=(1, 2, 1), footprints=(3, 5, 5), widths=(64, 128, 256), stem_width=32)
    yield ModelSpec(f"san_mini_{kind}", mini, (3, 32, 32), PAPER)


ARCHITECTURES = tuple(spec for kind in _KINDS for spec in _architectures(kind))
