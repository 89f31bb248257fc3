"""DAT, vision transformer with deformable attention (Xia, Pan, Song, Li, Huang, CVPR 2022, arXiv:2201.00520).

The original model, not DAT++. Early stages attend within local and shifted windows; later ones alternate local windows with
*deformable* attention, in which every query sees the same keys, sampled from the map at a grid of points that the queries
themselves have moved. Parameters have the names of the authors' checkpoints. `fit_tables` adapts weights to another image size.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import unknown_name
from models.registry import ModelSpec, register

PAPER = "Xia et al., CVPR 2022, arXiv:2201.00520"
MASKED = -100.0
"""Added to the logits of pairs that a shifted window must not join, as in the authors' code."""

Position = Literal["relative", "fixed", "depthwise", "none"]
POSITIONS: tuple[Position, ...] = ("relative", "fixed", "depthwise", "none")
_KINDS = {"L": "local window", "S": "shifted window", "D": "deformable"}


class ChannelNorm(nn.Module):
    """Layer norm over the channels of every pixel of a map (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class WindowAttention(nn.Module):
    """Self-attention within windows with a learned bias for every displacement.

    Args:
        channels: of the map.
        heads: attention heads, dividing the channels.
        window: side of a window.
        map_size: height and width of the map, multiples of the window.
        shifted: roll the map by ceil(window / 2) first, so that windows straddle those of the layer before; pairs that were no
            neighbours before the roll are masked.
    """

    def __init__(self, channels: int, heads: int, window: int, map_size: tuple[int, int], *, shifted: bool) -> None:
        super().__init__()
        self.heads, self.window, self.map_size = heads, window, map_size
        self.shift = math.ceil(window / 2) if shifted else 0
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.01)
        self.register_buffer("relative_position_index", _displacements(window))
        if shifted:
            self.register_buffer("attn_mask", _shift_mask(map_size, window, self.shift))
        self.proj_qkv = nn.Linear(channels, 3 * channels)
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (N, C, H, W) -> (N, C, H, W)."""
        n, c, h, w = x.shape
        _require_map_size((h, w), self.map_size)
        side = self.window
        x = x.permute(0, 2, 3, 1).roll((-self.shift, -self.shift), (1, 2))  # (N, H, W, C)
        x = x.reshape(n, h // side, side, w // side, side, c).transpose(2, 3)  # (N, rows, columns, side, side, C)
        qkv = self.proj_qkv(x.reshape(n, -1, side**2, c))  # (N, windows, side*side, 3C)
        q, k, v = qkv.view(*qkv.shape[:3], 3, self.heads, -1).permute(
            3, 0, 1, 4, 2, 5
        )  # (N, windows, heads, side*side, d)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=self._bias(q.dtype))
        x = self.proj_out(attended.transpose(2, 3).flatten(3))  # (N, windows, side*side, C)
        x = x.view(n, h // side, w // side, side, side, c).transpose(2, 3).reshape(n, h, w, c)
        return x.roll((self.shift, self.shift), (1, 2)).permute(0, 3, 1, 2)

    def _bias(self, dtype: torch.dtype) -> Tensor:
        """What is added to the logits: (1 or windows, heads, side*side, side*side)."""
        index = cast(Tensor, self.relative_position_index)
        bias = self.relative_position_bias_table[index.flatten()].view(*index.shape, -1).permute(2, 0, 1).unsqueeze(0)
        if self.shift:
            bias = bias + cast(Tensor, self.attn_mask).unsqueeze(1)
        return bias.to(dtype)


class DeformableAttention(nn.Module):
    """Attention to keys sampled where the queries point (Sec. 3.2).

    Positions and offsets are (y, x) in a map that reaches from -1 to 1. The grid is that of cell centres, while sampling takes
    -1 and 1 for pixel centres: so the published weights were trained.

    Args:
        channels: of the map.
        heads: attention heads, dividing the channels.
        groups: channel groups with offsets of their own, dividing the heads.
        map_size: height and width of the map.
        offset_kernel: side of the offset network's depthwise convolution.
        offset_range: furthest that a point can move, in cells; 0 keeps the grid and has no offset network.
        position: "relative" interpolates a table of displacements, "fixed" learns a bias for every pair, "depthwise" adds a 3x3
            depthwise convolution of the queries, "none" knows no positions.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        groups: int,
        map_size: tuple[int, int],
        *,
        offset_kernel: int,
        offset_range: float = 2.0,
        position: Position = "relative",
    ) -> None:
        super().__init__()
        if channels % heads or heads % groups:
            raise ValueError(f"groups must divide heads and heads channels, got {groups}, {heads} and {channels}")
        self.heads, self.groups, self.map_size = heads, groups, map_size
        self.offset_range, self.position = offset_range, position
        if offset_range:
            width = channels // groups
            self.conv_offset = nn.Sequential(
                nn.Conv2d(width, width, offset_kernel, padding=offset_kernel // 2, groups=width),
                ChannelNorm(width),
                nn.GELU(),
                nn.Conv2d(width, 2, 1, bias=False),
            )
        self.proj_q, self.proj_k, self.proj_v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))
        if (table := self._table()) is not None:
            self.rpe_table = table

    def _table(self) -> nn.Parameter | nn.Module | None:
        h, w = self.map_size
        channels = self.proj_q.in_channels
        if self.position == "depthwise":
            return nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        shapes = {"relative": (self.heads, 2 * h - 1, 2 * w - 1), "fixed": (self.heads, h * w, h * w)}
        if self.position not in shapes:
            return None
        return nn.Parameter(nn.init.trunc_normal_(torch.empty(shapes[self.position]), std=0.01))

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (N, C, H, W) -> (N, C, H, W)."""
        q, k, v, bias, _ = self._sample(x)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # (N, heads, H*W, d)
        attended = attended.transpose(2, 3).reshape(x.shape)
        if self.position == "depthwise":
            attended = attended + cast(nn.Module, self.rpe_table)(q.transpose(2, 3).reshape(x.shape))
        return self.proj_out(attended)

    def attention(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sampled positions (N, groups, H, W, 2), (y, x), and the weights (N, heads, queries, keys) given to them."""
        q, k, _, bias, positions = self._sample(x)
        logits = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
        return positions, (logits if bias is None else logits + bias).softmax(-1)

    def _sample(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
        """Compute q, k, v (N, heads, H*W, d), the bias (N or 1, heads, queries, keys) and the positions of the keys."""
        n, _, h, w = x.shape
        _require_map_size((h, w), self.map_size)
        q = self.proj_q(x)
        positions = self.positions(q)  # (N, groups, H, W, 2)
        points = positions.flatten(0, 1).flip(-1).to(x.dtype)  # (N*groups, H, W, 2), (x, y)
        sampled = F.grid_sample(x.reshape(n * self.groups, -1, h, w), points, align_corners=True).view(x.shape)
        q, k, v = (_heads(projected, self.heads) for projected in (q, self.proj_k(sampled), self.proj_v(sampled)))
        return q, k, v, self._bias(positions, q.dtype), positions

    def positions(self, q: Tensor) -> Tensor:
        """Compute where the keys lie for projected queries (N, C, H, W): (N, groups, H, W, 2), (y, x)."""
        n, _, h, w = q.shape
        reference = _cell_centres(h, w, q)
        if not self.offset_range:
            return reference.expand(n, self.groups, h, w, 2)
        offsets = self.conv_offset(q.reshape(n * self.groups, -1, h, w)).tanh()  # (N*groups, 2, H, W), y before x
        ys, xs = offsets.view(n, self.groups, 2, h, w).unbind(2)  # in cells
        return reference + torch.stack([ys * (1 / h), xs * (1 / w)], -1) * self.offset_range

    def _bias(self, positions: Tensor, dtype: torch.dtype) -> Tensor | None:
        if self.position == "fixed":
            return cast(Tensor, self.rpe_table).unsqueeze(0).to(dtype)
        if self.position != "relative":
            return None
        n, _, h, w, _ = positions.shape
        queries = _cell_centres(h, w, positions).view(1, h * w, 1, 2)
        displacements = (queries - positions.reshape(n * self.groups, 1, h * w, 2)) / 2  # (N*groups, queries, keys, 2)
        tables = cast(Tensor, self.rpe_table).view(self.groups, -1, 2 * h - 1, 2 * w - 1).to(positions.dtype)
        tables = tables.expand(n, -1, -1, -1, -1).flatten(0, 1)  # (N*groups, heads/groups, 2H-1, 2W-1)
        bias = F.grid_sample(tables, displacements.flip(-1), align_corners=True)
        return bias.view(n, self.heads, h * w, h * w).to(dtype)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(N, heads*d, H, W) -> (N, heads, H*W, d)."""
    return x.reshape(len(x), heads, -1, x.shape[2] * x.shape[3]).transpose(2, 3)


def _cell_centres(height: int, width: int, like: Tensor) -> Tensor:
    """Centres of the cells of a map from -1 to 1: (H, W, 2), (y, x)."""
    ys = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height * 2 - 1
    xs = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width * 2 - 1
    return torch.stack([ys.unsqueeze(1).expand(height, width), xs.expand(height, width)], -1)


def _displacements(window: int) -> Tensor:
    """Row of the bias table for every pair in a window: (window^2, window^2), queries first."""
    offsets = torch.arange(window)
    difference = offsets.unsqueeze(1) - offsets + window - 1  # query minus key
    rows = difference[:, None, :, None] * (2 * window - 1) + difference[None, :, None, :]  # (y, x, y', x')
    return rows.reshape(window**2, window**2)


def _shift_mask(map_size: tuple[int, int], window: int, shift: int) -> Tensor:
    """MASKED for pairs of a window that come from different regions of the unrolled map: (windows, window^2, window^2)."""
    regions = [
        (torch.arange(size) >= size - window).long() + (torch.arange(size) >= size - shift).long() for size in map_size
    ]
    region = regions[0].unsqueeze(1) * 3 + regions[1]  # (H, W)
    h, w = map_size
    region = region.view(h // window, window, w // window, window).transpose(1, 2).reshape(-1, window**2)
    return (region.unsqueeze(1) != region.unsqueeze(2)).float() * MASKED


def _require_map_size(received: tuple[int, int], expected: tuple[int, int]) -> None:
    if received != expected:
        raise ValueError(
            f"this layer was built for maps of {expected[0]} x {expected[1]}, got {received[0]} x {received[1]}: give the network "
            "images of its image_size, or build it with another"
        )


class StochasticDepth(nn.Module):
    """Drop a residual branch for whole images in training, at a given rate (Huang et al. 2016, arXiv:1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """Keep each image's branch with probability 1 - rate, scaled so that its expectation stays."""
        if not self.training or not self.rate:
            return branch
        kept = torch.rand(len(branch), 1, 1, 1, device=branch.device) >= self.rate
        return branch * kept / (1 - self.rate)


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
    """Blocks of one resolution, each an attention and an MLP with a norm before and a shortcut around (Fig. 3)."""

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
        offset_range: furthest that a deformable attention's point can move, in cells; 0 keeps it where it is.
        position: how deformable attentions know positions, one of POSITIONS.
        head_width: channels of a head.
        expansion: of the MLPs.
        patch_size: pixels a side that the stem makes one position of.
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
            raise ValueError(f"unknown block kind {', '.join(sorted(unknown))}; allowed are {allowed}")
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
        _require_map_size((images.shape[2], images.shape[3]), (self.image_size, self.image_size))
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

for _name, _side, _published, _options in (
    ("dat_tiny", 224, (82.0,), {**_TINY, "drop_path": 0.2}),
    ("dat_small", 224, (83.7,), {**_SMALL, "drop_path": 0.3}),
    ("dat_base", 224, (84.0,), {**_BASE, "drop_path": 0.5}),
    ("dat_base_384", 384, (84.8,), {**_BASE, "drop_path": 0.5, "window": 12}),
    ("dat_mini", 32, (), _MINI),
):
    _build = partial(DAT, image_size=_side, **_options)
    register(ModelSpec(_name, _build, (3, _side, _side), PAPER, _published))
