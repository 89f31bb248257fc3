"""DAT, a vision transformer with deformable attention; `fit_tables` adapts its weights to another image size."""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import unknown_name
from models.families.dat.attention import (
    POSITIONS,
    ChannelNorm,
    DeformableAttention,
    Position,
    WindowAttention,
    require_map_size,
)
from models.registry import ModelSpec

PAPER = "Xia et al., CVPR 2022, arXiv:2201.00520"
_KINDS = {"L": "local window", "S": "shifted window", "D": "deformable"}


class StochasticDepth(nn.Module):
    """Drop a residual branch for whole images in training, at a given rate (Huang et al. 2016, arXiv:1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """Use each image's branch with probability 1 - rate, scaled so that its expectation does not change."""
        if not self.training or not self.rate:
            return branch
        used = torch.rand(len(branch), 1, 1, 1, device=branch.device) >= self.rate
        return branch * used / (1 - self.rate)


class Mlp(nn.Module):
    """Two linear layers with a GELU between, at every pixel."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        layers = {"linear1": nn.Linear(channels, hidden), "act": nn.GELU(), "linear2": nn.Linear(hidden, channels)}
        self.chunk = nn.Sequential(OrderedDict[str, nn.Module](layers))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        return self.chunk(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """Blocks of one resolution, each with an attention and an MLP, both after a norm and with a shortcut (Fig. 3)."""

    def __init__(
        self, channels: int, expansion: int, attentions: Sequence[nn.Module], drop_path: Sequence[float]
    ) -> None:
        super().__init__()
        self.attns = nn.ModuleList(attentions)
        self.mlps = nn.ModuleList(Mlp(channels, expansion) for _ in attentions)
        self.layer_norms = nn.ModuleList(ChannelNorm(channels) for _ in range(2 * len(attentions)))
        self.drop_path = nn.ModuleList(StochasticDepth(rate) for rate in drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        for index, (attention, mlp, drop) in enumerate(zip(self.attns, self.mlps, self.drop_path, strict=True)):
            x = x + drop(attention(self.layer_norms[2 * index](x)))
            x = x + drop(mlp(self.layer_norms[2 * index + 1](x)))
        return x


class DAT(nn.Module):
    """A vision transformer with deformable attention (Table 1).

    Args:
        num_classes: number of logits.
        widths: channels of each stage.
        blocks: a letter for each block of each stage: L local window, S shifted window, D deformable.
        groups: offset groups of each stage's deformable attentions.
        image_size: side of the images; the tables of relative positions depend on it.
        window: side of the windows; every stage's map must be a multiple of it.
        offset_range: largest distance that a point of deformable attention can move, in cells; with 0 it does not move.
        position: how deformable attentions use positions, one of POSITIONS.
        head_width: channels of a head.
        expansion: of the MLPs.
        patch_size: side of the patch, in pixels, that the stem turns into one position.
        offset_kernels: side of each stage's offset convolution.
        drop_path: rate of stochastic depth at the last block; it grows linearly from 0.

    Raises:
        ValueError: an option does not fit the others.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        widths: Sequence[int],
        blocks: Sequence[str],
        groups: Sequence[int],
        image_size: int = 224,
        window: int = 7,
        offset_range: float = 2.0,
        position: Position = "relative",
        head_width: int = 32,
        expansion: int = 4,
        patch_size: int = 4,
        offset_kernels: Sequence[int] = (9, 7, 5, 3),
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if position not in POSITIONS:
            raise unknown_name("position encoding", position, POSITIONS)
        if unknown := set("".join(blocks)) - set(_KINDS):
            allowed = ", ".join(f"{letter} ({kind})" for letter, kind in _KINDS.items())
            raise ValueError(f"unknown block kind {', '.join(sorted(unknown))}; these are known: {allowed}")
        sides = [image_size // patch_size // 2**index for index in range(len(widths))]
        if image_size % (patch_size * 2 ** (len(widths) - 1)) or any(side % window for side in sides):
            raise ValueError(
                f"image_size {image_size} gives maps of {sides}, which must be multiples of window {window}"
            )
        self.image_size = image_size
        self.patch_proj = nn.Sequential(nn.Conv2d(3, widths[0], patch_size, patch_size), ChannelNorm(widths[0]))
        rates = torch.linspace(0, drop_path, sum(map(len, blocks)), device="cpu").tolist()
        self.stages = nn.ModuleList()
        for width, kinds, count, side, kernel in zip(widths, blocks, groups, sides, offset_kernels, strict=False):
            make: dict[str, Callable[[], nn.Module]] = {
                "L": partial(WindowAttention, width, width // head_width, window, (side, side), shifted=False),
                "S": partial(WindowAttention, width, width // head_width, window, (side, side), shifted=True),
                "D": partial(
                    DeformableAttention,
                    width,
                    width // head_width,
                    count,
                    (side, side),
                    offset_kernel=kernel,
                    offset_range=offset_range,
                    position=position,
                ),
            }
            self.stages.append(Stage(width, expansion, [make[kind]() for kind in kinds], rates[: len(kinds)]))
            rates = rates[len(kinds) :]
        self.down_projs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 2, 2, bias=False), ChannelNorm(after))
            for before, after in pairwise(widths)
        )
        self.cls_norm = ChannelNorm(widths[-1])
        self.cls_head = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify normalised images (N, 3, image_size, image_size); returns logits (N, num_classes).

        Raises:
            ValueError: the images have another size.
        """
        require_map_size((images.shape[2], images.shape[3]), (self.image_size, self.image_size))
        x = self.patch_proj(images)
        for index, stage in enumerate(self.stages):
            x = stage(x)  # (N, widths[index], side, side)
            if index < len(self.down_projs):
                x = self.down_projs[index](x)
        return self.cls_head(self.cls_norm(x).mean((2, 3)))


def fit_tables(tensors: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Adapt a DAT's weights to a network built for another image size, as the authors do.

    Tables of relative positions are resized bicubically; indices and masks, which follow from shapes, are the network's own.

    Args:
        tensors: the state dict of a DAT.
        network: the DAT that will load the result.

    Returns:
        A state dict.
    """
    fitted = dict(tensors)
    for name, own in network.state_dict().items():
        if name not in tensors or tensors[name].shape == own.shape:
            continue
        part = name.rsplit(".", 1)[-1]
        if part in ("relative_position_index", "attn_mask"):
            fitted[name] = own
        elif part == "rpe_table":
            fitted[name] = _resized(tensors[name], own.shape[-2:])
        elif part == "relative_position_bias_table":
            before, after = (math.isqrt(len(table)) for table in (tensors[name], own))
            square = tensors[name].T.reshape(-1, before, before)
            fitted[name] = _resized(square, (after, after)).flatten(1).T.contiguous()
    return fitted


def _resized(table: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(table.unsqueeze(0), tuple(size), mode="bicubic").squeeze(0)


_TINY = {"widths": (96, 192, 384, 768), "blocks": ("LS", "LS", "LD" * 3, "LD"), "groups": (1, 1, 3, 6)}
_SMALL = {**_TINY, "blocks": ("LS", "LS", "LD" * 9, "LD")}
_BASE = {"widths": (128, 256, 512, 1024), "blocks": _SMALL["blocks"], "groups": (1, 2, 4, 8)}
_MINI = {
    "widths": (32, 64, 128),
    "blocks": ("LS", "LD", "LD"),
    "groups": (1, 2, 4),
    "window": 4,
    "head_width": 16,
    "expansion": 2,
    "patch_size": 2,
    "offset_kernels": (3, 3, 3),
}

_SIZES = (
    ("dat_tiny", 224, (82.0,), {**_TINY, "drop_path": 0.2}),
    ("dat_small", 224, (83.7,), {**_SMALL, "drop_path": 0.3}),
    ("dat_base", 224, (84.0,), {**_BASE, "drop_path": 0.5}),
    ("dat_base_384", 384, (84.8,), {**_BASE, "drop_path": 0.5, "window": 12}),
    ("dat_mini", 32, (), _MINI),
)

ARCHITECTURES = tuple(
    ModelSpec(name, partial(DAT, image_size=side, **options), (3, side, side), PAPER, published)
    for name, side, published, options in _SIZES
)
