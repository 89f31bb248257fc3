"""Patchwise self-attention from folded operands to the aggregated values (SAN, arXiv:2004.13621, Sec. 3.2), for frozen weights.

The weights of a footprint are W2 relu(Wc relu(x1) + b1 + sum over taps of Wt relu(s_t x2[tap] + b_t)) + b2, with the norms folded
in where possible; each tap has its own norm. The sum is built row by row of taps; a sliding view of the padded map gives each row
as one matrix. Tiles are computed again in the backward pass.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.ops.neighbourhood import formulation, gather_taps, in_chunks, unfolded_aggregation
from models.ops.tiles import (
    Scratch,
    Tile,
    add_to_windows,
    add_value_gradient,
    aggregate_tiles,
    block_diagonal,
    fold,
    length,
    mask_,
    pack_factor,
    pad,
    split_groups,
    tiles,
    weight_gradient,
    windows,
)


class PatchwiseWeights(NamedTuple):
    """Frozen operands of the mapping, for R relation channels and D weight maps.

    Args:
        scale: (k, k*R), of the norm of the neighbours: rows of taps by taps of the row and channels.
        shift: (k, k*R).
        centre: (R, D), Wc transposed.
        taps: (k, k*R, D), Wt transposed.
        bias: (D,), b1.
        second: (k*k, D, D), W2 of each tap transposed.
        second_bias: (k*k, D), b2.
    """

    scale: Tensor
    shift: Tensor
    centre: Tensor
    taps: Tensor
    bias: Tensor
    second: Tensor
    second_bias: Tensor


def patchwise_core(
    x1: Tensor, x2: Tensor, x3: Tensor, weights: PatchwiseWeights, *, kernel_size: int, tile_bytes: int | None = None
) -> Tensor:
    """Attend; gradients go to x1, x2 and x3 alone.

    Args:
        x1: centres (N, H, W, R); H and W larger than kernel_size // 2.
        x2: neighbours (N, H, W, R).
        x3: values (N, H, W, C); channel c uses weight map c modulo D.
        weights: the mapping.
        kernel_size: odd footprint k.
        tile_bytes: working memory of a tile; by default that of a CPU, and on a GPU unfold is used instead.

    Returns:
        (N, H, W, C).
    """
    chosen = formulation(x1.device.type, kernels_fit=False, compiling=torch.compiler.is_compiling())
    if tile_bytes is None and chosen == "unfold":
        return unfolded_patchwise(x1, x2, x3, weights, kernel_size)
    return _PatchwiseCore.apply(x1, x2, x3, weights, (kernel_size, tile_bytes))


def unfolded_patchwise(x1: Tensor, x2: Tensor, x3: Tensor, weights: PatchwiseWeights, kernel_size: int) -> Tensor:
    """Compute `patchwise_core` by gathering all taps, of some images at a time."""
    relation, maps = weights.centre.shape
    taps = kernel_size**2
    scale, shift = (x.view(taps, relation).t().unsqueeze(2) for x in (weights.scale, weights.shift))  # (R, k*k, 1)
    first = weights.taps.view(taps, relation, maps).permute(2, 1, 0).flatten(1)  # (D, R*k*k)
    second = weights.second.permute(2, 0, 1).flatten(0, 1)  # (D*k*k, D)
    bias = weights.second_bias.t().unsqueeze(2)  # (D, k*k, 1)

    def attend(x1: Tensor, x2: Tensor, x3: Tensor) -> Tensor:
        features = gather_taps(x2, kernel_size).view(len(x2), relation, taps, -1)
        features = (features * scale + shift).relu().flatten(1, 2)  # (n, R*k*k, H*W)
        hidden = weights.centre.t() @ x1.flatten(2).relu() + first @ features
        hidden = (hidden + weights.bias.unsqueeze(1)).relu()  # (n, D, H*W)
        alpha = (second @ hidden).unflatten(1, (maps, taps)) + bias
        return unfolded_aggregation(x3, alpha, kernel_size)

    inputs = (x.permute(0, 3, 1, 2) for x in (x1, x2, x3))
    channels = 2 * (relation + maps) + x3.shape[3]
    return in_chunks(attend, *inputs, kernel_size=kernel_size, channels=channels).permute(0, 2, 3, 1)


class _Mapping:
    """The maps of weights of one tile after another."""

    def __init__(self, x1: Tensor, x2: Tensor, weights: PatchwiseWeights, kernel_size: int) -> None:
        self.kernel_size = kernel_size
        self.x1 = x1
        self.padded = pad(x2, x2.shape[3], kernel_size)
        self.relation, self.maps = weights.centre.shape
        self.pack = pack_factor(x1.shape[2], self.maps)
        self.scale, self.shift = weights.scale, weights.shift
        self.centre, self.taps, self.second = (
            block_diagonal(matrix, self.pack) for matrix in (weights.centre, weights.taps, weights.second)
        )
        self.bias, self.second_bias = weights.bias.repeat(self.pack), weights.second_bias.repeat(1, self.pack)

    def row_floats(self, channels: int) -> int:
        """Numbers of working memory for one row of one image."""
        k = self.kernel_size
        return self.x1.shape[2] * (k * k * (self.relation + 2 * self.maps) + (k + 2) * channels)

    def __call__(self, tile: Tile, scratch: Scratch, *, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the layers of a tile, matrices with a row for each of its P packs of pixels.

        Args:
            tile: images and rows.
            scratch: for the results.
            keep: whether to store the features of all rows of taps, or only of the last.

        Returns:
            Centre features (P, pack * R), neighbour features (k or 1, P, pack * k * R), hidden layer (P, pack * D), weights
            (k, k, n, h, W * D).
        """
        k = self.kernel_size
        part = self.x1[tile]
        centre = part.reshape(-1, self.pack * self.relation).relu()
        hidden = scratch("hidden", len(centre), self.pack * self.maps)
        torch.addmm(self.bias, centre, self.centre, out=hidden)
        features = scratch("features", k if keep else 1, len(centre), self.pack * k * self.relation)
        for dy in range(k):
            row = features[dy % len(features)]
            under_taps = self._row_of_taps(tile, dy)
            torch.addcmul(self.shift[dy], under_taps, self.scale[dy], out=row.view(under_taps.shape))
            hidden.addmm_(row.relu_(), self.taps[dy])
        hidden.relu_()
        alpha = scratch("weights", k * k, *hidden.shape)
        torch.baddbmm(self.second_bias.unsqueeze(1), hidden.expand(k * k, -1, -1), self.second, out=alpha)
        return centre, features, hidden, alpha.view(k, k, *part.shape[:2], -1)

    def _row_of_taps(self, tile: Tile, dy: int) -> Tensor:
        """All taps of a row of the footprint: a sliding (n, h, W, k*R) view."""
        images, rows = tile
        part = self.padded[images, rows.start + dy : rows.stop + dy]
        image, row, _, one = part.stride()
        shape = (*part.shape[:2], self.x1.shape[2], self.kernel_size * self.relation)
        return part.as_strided(shape, (image, row, self.relation, one))


class _PatchwiseCore(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        x1: Tensor,
        x2: Tensor,
        x3: Tensor,
        weights: PatchwiseWeights,
        sizes: tuple[int, int | None],
    ) -> Tensor:
        kernel_size, tile_bytes = sizes
        ctx.save_for_backward(x1, x2, x3)
        ctx.arguments = weights, kernel_size, tile_bytes
        maps = weights.centre.shape[1]
        mapping, scratch = _Mapping(x1, x2, weights, kernel_size), Scratch(x1)
        cut = tiles(x3, mapping.row_floats(x3.shape[3]), tile_bytes)
        alphas = ((tile, mapping(tile, scratch, keep=False)[-1]) for tile in cut)
        return aggregate_tiles(alphas, x3, maps, kernel_size, scratch)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x1, x2, x3 = ctx.saved_tensors
        weights: PatchwiseWeights
        weights, k, tile_bytes = ctx.arguments
        relation, maps = weights.centre.shape
        mapping, scratch = _Mapping(x1, x2, weights, k), Scratch(x1)
        values = pad(x3, maps, k)
        second = mapping.second.transpose(1, 2)
        centre_gradient = torch.empty_like(x1, memory_format=torch.contiguous_format)
        neighbour_gradient, value_gradient = torch.zeros_like(mapping.padded), torch.zeros_like(values)
        for tile in tiles(x3, mapping.row_floats(x3.shape[3]), tile_bytes):
            centre, features, hidden, alpha = mapping(tile, scratch, keep=True)
            grouped = split_groups(gradient[tile], maps)
            upstream = scratch("upstream", *grouped.shape).copy_(grouped).flatten(3)  # (n, h, G, W * D)
            add_value_gradient(windows(value_gradient, maps, k, tile), alpha, upstream)
            grad = weight_gradient(upstream, windows(values, maps, k, tile), scratch)
            grad = torch.addbmm(hidden, grad.view(k * k, *hidden.shape), second, beta=0)
            grad = mask_(grad, hidden)  # (P, pack * D)
            centre_gradient[tile] = mask_(grad @ mapping.centre.t(), centre).view(centre_gradient[tile].shape)
            for dy in range(k):
                row = torch.mm(grad, mapping.taps[dy].t(), out=scratch("row gradient", *features[dy].shape))
                mask_(row, features[dy])
                torch.mul(row.view(-1, k * relation), mapping.scale[dy], out=features[dy].view(-1, k * relation))
            shape = length(tile[0]), length(tile[1]), -1, k, relation
            under_taps = features.view(k, *shape).permute(0, 4, 1, 2, 3, 5)  # (k, k, n, h, W, R)
            target = windows(neighbour_gradient, relation, k, tile)[:, :, :, :, 0].unflatten(-1, (-1, relation))
            add_to_windows(target, under_taps)
        folded = fold(neighbour_gradient, relation, k), fold(value_gradient, maps, k)
        return centre_gradient, *folded, None, None
