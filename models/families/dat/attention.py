"""The two attentions of DAT: within windows, and to keys sampled where the queries point."""

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.readings import Place, Reading, of_query

MASKED = -100.0
"""Added to the logits of pairs that a shifted window must not join, as in the authors' code."""

Position = Literal["relative", "fixed", "depthwise", "none"]
POSITIONS: tuple[Position, ...] = ("relative", "fixed", "depthwise", "none")


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
        shifted: roll the map by ceil(window / 2) first, so that windows straddle those of the previous layer; pairs that were not
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
        require_map_size((h, w), self.map_size)
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
        """Bias and mask that are added to the logits: (1 or windows, heads, side*side, side*side)."""
        index = cast(Tensor, self.relative_position_index)
        bias = self.relative_position_bias_table[index.flatten()].view(*index.shape, -1).permute(2, 0, 1).unsqueeze(0)
        if self.shift:
            bias = bias + cast(Tensor, self.attn_mask).unsqueeze(1)
        return bias.to(dtype)


class DeformableAttention(nn.Module):
    """Attention to keys sampled where the queries point (Sec. 3.2).

    Positions and offsets are (y, x) in a map that reaches from -1 to 1. The grid consists of cell centres, while sampling takes -1
    and 1 as pixel centres: the published weights were trained in this way.

    Args:
        channels: of the map.
        heads: attention heads, dividing the channels.
        groups: channel groups with offsets of their own, dividing the heads.
        map_size: height and width of the map.
        offset_kernel: side of the offset network's depthwise convolution.
        offset_range: largest distance that a point can move, in cells; 0 leaves the points on the grid, without an offset network.
        position: "relative" interpolates a table of displacements, "fixed" learns a bias for every pair, "depthwise" adds a 3x3
            depthwise convolution of the queries, "none" uses no positions.
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
        require_map_size((h, w), self.map_size)
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


def require_map_size(received: tuple[int, int], expected: tuple[int, int]) -> None:
    """Refuse a map of another size than a layer was built for.

    Raises:
        ValueError: the size differs.
    """
    if received != expected:
        raise ValueError(
            f"this layer was built for maps of {expected[0]} x {expected[1]}, got {received[0]} x {received[1]}: give the network "
            "images of its image_size, or build it with another"
        )


def read_deformable(layer: DeformableAttention, x: Tensor, _output: Tensor, query: Place | None) -> Reading:
    """Read the score that the query, or all queries on average, give each sampled point: one map per head.

    A key's score is in the cell that the key was moved from. The keys of a head mix all groups; its points are those of the group
    that also gives its position bias.
    """
    positions, weights = layer.attention(x)  # (N, groups, H, W, 2), (N, heads, queries, keys)
    size = list(x.shape[-2:])
    whose, scores = of_query(weights.float(), query, size)
    pixels = (positions.float() + 1) / 2 * (positions.new_tensor(size) - 1)  # -1 and 1: centres of the corner pixels
    points = ((pixels + 0.5) / positions.new_tensor(size)).flatten(2, 3)
    points = points.repeat_interleave(layer.heads // layer.groups, 1)  # (N, heads, keys, 2)
    kind = f"attention that {whose} to each sampled point, one map per head"
    return Reading(kind, scores.unflatten(-1, size), points, scores)
