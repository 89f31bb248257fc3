"""Pairwise self-attention from folded operands to the aggregated values (SAN, arXiv:2004.13621, Sec. 3.1), for frozen weights.

With the norms folded into the layers beside them, the weights of a footprint are softmax over its taps of
W2 relu(W1 relu(x1 - x2[tap]) + t[tap]). The term t comes from the relative positions alone; it is the same for all pixels that are
equally far from the border, so it is stored in a table over these *border classes*. Tiles are computed again in the backward pass;
nothing of the size taps x pixels x channels is ever stored.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.ops import triton_ops
from models.ops.neighbourhood import formulation, in_chunks, unfolded_aggregation, unfolded_subtraction
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


class PairwiseWeights(NamedTuple):
    """Frozen operands of the mapping.

    Args:
        first: (R, R), W1 transposed.
        second: (R, D), W2 transposed; D weight maps.
        table: (k*k, min(H, k), min(W, k), R), the position term and the bias of W1 for every tap and border class of row and
            column.
    """

    first: Tensor
    second: Tensor
    table: Tensor


def pairwise_core(
    x1: Tensor, x2: Tensor, x3: Tensor, weights: PairwiseWeights, *, kernel_size: int, tile_bytes: int | None = None
) -> Tensor:
    """Attend; gradients go to x1, x2 and x3 alone.

    Args:
        x1: centres (N, H, W, R); H and W larger than kernel_size // 2.
        x2: neighbours (N, H, W, R).
        x3: values (N, H, W, C); channel c uses weight map c modulo D.
        weights: the mapping.
        kernel_size: odd footprint k.
        tile_bytes: working memory of a tile; by default that of a CPU, and on a GPU kernels or unfold are used instead.

    Returns:
        (N, H, W, C).
    """
    if tile_bytes is None:
        fits = triton_ops.pairwise_fits(x1, x2, x3, *weights, kernel_size)
        match formulation(x1.device.type, kernels_fit=fits, compiling=torch.compiler.is_compiling()):
            case "kernels":
                return triton_ops.pairwise(x1, x2, x3, *weights, kernel_size)[0]
            case "unfold":
                return unfolded_pairwise(x1, x2, x3, weights, kernel_size)
            case "taps":
                pass
    return _PairwiseCore.apply(x1, x2, x3, weights, (kernel_size, tile_bytes))


def unfolded_pairwise(x1: Tensor, x2: Tensor, x3: Tensor, weights: PairwiseWeights, kernel_size: int) -> Tensor:
    """Compute `pairwise_core` by gathering all taps, of some images at a time."""
    height, width = x1.shape[1:3]
    rows, columns = (border_classes(size, kernel_size, x1.device) for size in (height, width))
    positions = weights.table.index_select(1, rows).index_select(2, columns)  # (k*k, H, W, R)
    positions = positions.permute(3, 0, 1, 2).flatten(1)  # (R, k*k*H*W)

    def attend(x1: Tensor, x2: Tensor, x3: Tensor) -> Tensor:
        relation = unfolded_subtraction(x1, x2, kernel_size)  # (n, R, k*k, H*W)
        hidden = (weights.first.t() @ relation.relu().flatten(2) + positions).relu()
        logits = (weights.second.t() @ hidden).unflatten(2, relation.shape[2:])  # (n, D, k*k, H*W)
        return unfolded_aggregation(x3, logits.softmax(2), kernel_size)

    maps = (x.permute(0, 3, 1, 2) for x in (x1, x2, x3))
    channels = 2 * (x1.shape[3] + weights.second.shape[1]) + x3.shape[3]
    return in_chunks(attend, *maps, kernel_size=kernel_size, channels=channels).permute(0, 2, 3, 1)


def border_classes(size: int, kernel_size: int, device: torch.device | None = None) -> Tensor:
    """Border class of each of `size` positions, one of min(size, kernel_size): the same where footprints meet the border alike."""
    positions = torch.arange(size, device=device)
    inner = positions.clamp(max=kernel_size // 2)
    return torch.maximum(inner, positions - (size - kernel_size)) if size > kernel_size else positions


def class_representatives(size: int, kernel_size: int, device: torch.device | None = None) -> Tensor:
    """One position of each border class, in the order of the classes."""
    classes = torch.arange(min(size, kernel_size), device=device)
    return torch.where(classes > kernel_size // 2, classes + max(0, size - kernel_size), classes)


class _Mapping:
    """The maps of weights of one tile after another.

    Args:
        x1: centres (N, H, W, R).
        x2: neighbours (N, H, W, R).
        weights: the mapping.
        kernel_size: footprint.
    """

    def __init__(self, x1: Tensor, x2: Tensor, weights: PairwiseWeights, kernel_size: int) -> None:
        self.kernel_size = kernel_size
        self.x1 = x1
        self.padded = pad(x2, x2.shape[3], kernel_size)
        self.relation, self.maps = weights.second.shape
        self.pack = pack_factor(x1.shape[2], self.maps)
        self.first, self.second = (block_diagonal(matrix, self.pack) for matrix in (weights.first, weights.second))
        self._row_classes = border_classes(x1.shape[1], kernel_size, x1.device)
        self._classes_of_rows: list[int] = border_classes(x1.shape[1], kernel_size, torch.device("cpu")).tolist()
        self._table = weights.table[:, :, border_classes(x1.shape[2], kernel_size, x1.device)]  # (k*k, classes, W, R)
        self._last: tuple[list[int], Tensor] = [], x1

    def row_floats(self, channels: int) -> int:
        """Numbers of working memory for one row of one image."""
        k = self.kernel_size
        return self.x1.shape[2] * (k * k * 2 * (self.relation + self.maps) + (k + 2) * channels)

    def __call__(self, tile: Tile, scratch: Scratch) -> tuple[Tensor, Tensor, Tensor]:
        """Compute relu(x1 - x2[tap]) and the hidden layer, matrices with a row for a pack of pixels, and the maps.

        Returns:
            Features and hidden layer (k*k*n*h*W / pack, pack * R), weights (k, k, n, h, W * D).
        """
        k = self.kernel_size
        centre = self.x1[tile].flatten(2)  # (n, h, W * R)
        neighbours = windows(self.padded, self.relation, k, tile)[:, :, :, :, 0]  # (k, k, n, h, W * R)
        features = scratch("features", *neighbours.shape)
        torch.sub(centre, neighbours, out=features).relu_()
        features = features.view(-1, self.pack * self.relation)
        hidden = torch.mm(features, self.first, out=scratch("hidden", *features.shape))
        hidden.view(k * k, *centre.shape).add_(self._positions(tile[1])).relu_()
        logits = torch.mm(hidden, self.second, out=scratch("logits", len(hidden), self.pack * self.maps))
        logits = logits.view(k * k, -1)
        alpha = torch.softmax(logits, 0, out=scratch("weights", *logits.shape))
        return features, hidden, alpha.view(k, k, *centre.shape[:2], -1)

    def _positions(self, rows: slice) -> Tensor:
        """The position term of some rows (k*k, 1, h, W * R); most tiles need the same as the one before."""
        classes = self._classes_of_rows[rows]
        if self._last[0] != classes:
            self._last = classes, self._table[:, self._row_classes[rows]].flatten(2).unsqueeze(1)
        return self._last[1]


class _PairwiseCore(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        x1: Tensor,
        x2: Tensor,
        x3: Tensor,
        weights: PairwiseWeights,
        sizes: tuple[int, int | None],
    ) -> Tensor:
        kernel_size, tile_bytes = sizes
        ctx.save_for_backward(x1, x2, x3)
        ctx.arguments = weights, kernel_size, tile_bytes
        maps = weights.second.shape[1]
        mapping, scratch = _Mapping(x1, x2, weights, kernel_size), Scratch(x1)
        cut = tiles(x3, mapping.row_floats(x3.shape[3]), tile_bytes)
        alphas = ((tile, mapping(tile, scratch)[-1]) for tile in cut)
        return aggregate_tiles(alphas, x3, maps, kernel_size, scratch)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x1, x2, x3 = ctx.saved_tensors
        weights: PairwiseWeights
        weights, k, tile_bytes = ctx.arguments
        relation, maps = weights.second.shape
        mapping, scratch = _Mapping(x1, x2, weights, k), Scratch(x1)
        values = pad(x3, maps, k)
        first, second = mapping.first.t(), mapping.second.t()
        centre_gradient = torch.empty_like(x1, memory_format=torch.contiguous_format)
        neighbour_gradient, value_gradient = torch.zeros_like(mapping.padded), torch.zeros_like(values)
        for tile in tiles(x3, mapping.row_floats(x3.shape[3]), tile_bytes):
            features, hidden, alpha = mapping(tile, scratch)
            grouped = split_groups(gradient[tile], maps)
            upstream = scratch("upstream", *grouped.shape).copy_(grouped).flatten(3)  # (n, h, G, W * D)
            add_value_gradient(windows(value_gradient, maps, k, tile), alpha, upstream)
            grad = weight_gradient(upstream, windows(values, maps, k, tile), scratch)
            grad = _softmax_backward_(grad, alpha).view(len(hidden), -1)
            grad = mask_(torch.mm(grad, second, out=scratch("hidden gradient", *hidden.shape)), hidden)
            grad = mask_(torch.mm(grad, first, out=hidden), features)
            grad = grad.view(k, k, length(tile[0]), length(tile[1]), -1)
            centre_gradient[tile] = grad.sum((0, 1)).view(centre_gradient[tile].shape)
            add_to_windows(windows(neighbour_gradient, relation, k, tile)[:, :, :, :, 0], grad, sign=-1)
        folded = fold(neighbour_gradient, relation, k), fold(value_gradient, maps, k)
        return centre_gradient, *folded, None, None


def _softmax_backward_(gradient: Tensor, alpha: Tensor) -> Tensor:
    """Gradient to the logits, in place; taps are the first two dimensions."""
    gradient.mul_(alpha)
    return gradient.addcmul_(alpha, gradient.sum((0, 1)), value=-1)
