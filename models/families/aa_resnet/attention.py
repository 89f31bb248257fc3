"""The attention augmented convolution."""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import unknown_name
from models.ops.relative import WIDTH_MULTIPLE, append_relative_logits, one_hot_positions
from models.readings import Place, Reading, of_query

MIN_KEY_DIMS = 20
"""Smallest number of key dimensions of a head."""

Positions = Literal["relative", "none", "sine", "coord"]


class AugmentedConv2d(nn.Module):
    """A convolution and multi-head self-attention side by side, concatenated along the channels.

    Head h computes softmax((Q K^T + S_H + S_W) / sqrt(D)) V, D = key_dims / heads; a 1x1 convolution mixes the heads. Strided
    layers attend to their whole input and then pool the result, 3x3 averages with stride 2.

    Args:
        inputs: channels.
        outputs: channels, those of the attention included.
        key_dims: of all heads together, d_k.
        value_dims: of all heads together, d_v; if equal to outputs, there is no convolution.
        heads: number of heads; must divide key_dims and value_dims.
        map_size: (H, W) of the input, needed for the tables of relative positions.
        kernel_size: of the convolution, odd.
        stride: 1 or 2.
        pools: how often 3x3 average pooling halves the attention's input; bilinear interpolation restores the size of its output.
        positions: "relative"; or, added or concatenated to the attention's input, "sine" (waves of rows and columns) or "coord"
            (CoordConv, Liu et al. 2018, arXiv:1807.03247: x, y and distance from the centre); or "none".

    Raises:
        ValueError: the dimensions cannot be divided among the heads or exceed the outputs, or the positions are unknown.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        key_dims: int,
        value_dims: int,
        heads: int,
        map_size: tuple[int, int],
        kernel_size: int = 3,
        stride: int = 1,
        pools: int = 0,
        positions: Positions = "relative",
    ) -> None:
        super().__init__()
        if key_dims % heads or value_dims % heads or not 0 < value_dims <= outputs:
            raise ValueError(
                f"key_dims and value_dims must be multiples of heads={heads}, and value_dims at most outputs={outputs}, "
                f"got {key_dims} and {value_dims}"
            )
        if positions not in get_args(Positions):
            raise unknown_name("position encoding", positions, get_args(Positions))
        self.heads, self.key_dims, self.value_dims = heads, key_dims, value_dims
        self.stride, self.pools, self.positions = stride, pools, positions
        self.conv = None
        if value_dims < outputs:
            padding = kernel_size // 2
            self.conv = nn.Conv2d(inputs, outputs - value_dims, kernel_size, stride, padding, bias=False)
            nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        attended = inputs + 3 if positions == "coord" else inputs
        self.qkv = nn.Conv2d(attended, 2 * key_dims + value_dims, 1, bias=False)
        self.projection = nn.Conv2d(value_dims, value_dims, 1, bias=False)
        if positions == "relative":
            h, w = (math.ceil(side / 2**pools) for side in map_size)
            dims = key_dims // heads
            self.rel_h = nn.Parameter(torch.randn(2 * h - 1, dims) * dims**-0.5)
            self.rel_w = nn.Parameter(torch.randn(2 * w - 1, dims) * dims**-0.5)
            self.register_buffer("one_hot", one_hot_positions(h, w, dims), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H/stride, W/stride), rounded up.

        Raises:
            ValueError: the tables of relative positions are for another size.
        """
        attended = self._attend(x)
        if self.stride > 2**self.pools:
            attended = _halve(attended)
        size = [math.ceil(side / self.stride) for side in x.shape[-2:]]
        if list(attended.shape[-2:]) != size:
            attended = F.interpolate(attended, size, mode="bilinear", align_corners=False)
        return attended if self.conv is None else torch.cat([self.conv(x), attended], 1)

    def attention(self, x: Tensor) -> Tensor:
        """Compute the weights of each position (dim 2) over all positions (dim 3), row by row: (N, heads, H*W, H*W).

        H and W are those of the input, halved `pools` times.
        """
        queries, keys, _ = self._queries_keys_values(self._pooled(x))
        return (queries @ keys.mT).softmax(-1)

    def own_macs(self, x: Tensor) -> int:
        """Minus the products with zeros and ones, which are not in the layer's definition."""
        count = math.prod(math.ceil(side / 2**self.pools) for side in x.shape[-2:])
        dims, value_dims = self.key_dims // self.heads, self.value_dims // self.heads
        keys = dims + (self.get_buffer("one_hot").shape[1] if self.positions == "relative" else 0)
        widths = 2 * _common_width(keys, value_dims) if _pays(count, keys) else keys + value_dims
        return -len(x) * self.heads * count**2 * (widths - dims - value_dims)

    def _attend(self, x: Tensor) -> Tensor:
        x = self._pooled(x)
        heads = _attention(*self._queries_keys_values(x))  # (N, heads, H*W, d_v/heads)
        return self.projection(heads.mT.reshape(len(x), self.value_dims, *x.shape[-2:]))

    def _pooled(self, x: Tensor) -> Tensor:
        for _ in range(self.pools):
            x = _halve(x)
        return x

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project the input to three times (N, heads, H*W, .); the products of queries and keys are the logits.

        Relative positions are part of the product: a query contains its logits for each row and column of the map, a key selects
        its own row and column. Queries are divided by sqrt(D), and with them all terms of the logits.
        """
        dims = [self.key_dims, self.key_dims, self.value_dims]
        parts = self.qkv(self._with_positions(x)).split(dims, 1)
        queries, keys, values = (part.unflatten(1, (self.heads, -1)).flatten(3).mT for part in parts)
        queries = queries * (self.key_dims // self.heads) ** -0.5  # (N, heads, H*W, D)
        if self.positions == "relative":
            self._require_map_size(x)
            one_hot = self.get_buffer("one_hot").to(keys.dtype)
            queries = append_relative_logits(
                queries.unflatten(2, x.shape[-2:]), self.rel_h, self.rel_w, one_hot.shape[1]
            )
            keys = torch.cat([keys, one_hot.expand(*keys.shape[:2], -1, -1)], -1)
        return queries, keys, values

    def _with_positions(self, x: Tensor) -> Tensor:
        if self.positions == "sine":
            return x + _sine(x)
        if self.positions == "coord":
            return torch.cat([x, _coordinates(x).expand(len(x), -1, -1, -1)], 1)
        return x

    def _require_map_size(self, x: Tensor) -> None:
        h, w = len(self.rel_h) // 2 + 1, len(self.rel_w) // 2 + 1
        if x.shape[-2:] != (h, w):
            got = " x ".join(str(side) for side in x.shape[-2:])
            raise ValueError(f"the relative positions of this layer are for maps of {h} x {w}, got {got}")


def _attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Compute softmax(Q K^T) V; on large maps by fused kernels, which store no logits but need operands of equal width."""
    count, width = keys.shape[-2:]
    value_dims = values.shape[-1]
    if _pays(count, width):
        common = _common_width(width, value_dims)
        queries, keys, values = (_widened(x, common) for x in (queries, keys, values))
    return F.scaled_dot_product_attention(queries, keys, values, scale=1.0)[..., :value_dims]


def _pays(count: int, width: int) -> bool:
    """Whether the logits are larger than operands of this width."""
    return count > 2 * width


def _common_width(keys: int, values: int) -> int:
    return -(-max(keys, values) // WIDTH_MULTIPLE) * WIDTH_MULTIPLE


def _widened(x: Tensor, width: int) -> Tensor:
    return F.pad(x, (0, width - x.shape[-1])) if x.shape[-1] < width else x


def _halve(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)


def _coordinates(x: Tensor) -> Tensor:
    """Rows, columns, both from -1 to 1, and their distance from the centre: (1, 3, H, W), x before y."""
    h, w = x.shape[-2:]
    ys = torch.linspace(-1, 1, h, dtype=x.dtype, device=x.device).unsqueeze(1).expand(h, w)
    xs = torch.linspace(-1, 1, w, dtype=x.dtype, device=x.device).expand(h, w)
    return torch.stack([xs, ys, torch.hypot(xs, ys)]).unsqueeze(0)


def _sine(x: Tensor) -> Tensor:
    """Sines and cosines of the row, then of the column, wavelengths from 2 pi to 10000 * 2 pi: (1, C, H, W)."""
    channels, h, w = x.shape[1:]
    count = math.ceil(channels / 4)
    positions = torch.arange(max(count, h, w), device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
    waves = (10000.0 ** (-positions[:count] / count)).unsqueeze(1)
    rows = (positions[:h] * waves).unsqueeze(2).expand(-1, h, w)
    columns = (positions[:w] * waves).unsqueeze(1).expand(-1, h, w)
    encoding = torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()])
    return encoding[:channels].unsqueeze(0).to(x.dtype)


def read_augmented(layer: AugmentedConv2d, x: Tensor, _output: Tensor, query: Place | None) -> Reading:
    """Read the attention that each position receives from the query, or from all queries on average: one map per head."""
    weights = layer.attention(x)  # (N, heads, H*W, H*W)
    size = [-(-side // 2**layer.pools) for side in x.shape[-2:]]
    whose, maps = of_query(weights, query, size)
    return Reading(f"attention that {whose} to each position, one map per head", maps.unflatten(-1, size))
