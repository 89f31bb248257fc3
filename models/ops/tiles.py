"""What the fast forms of self-attention share: they process maps (N, H, W, C) in tiles of a few rows that stay in the cache.

A *padded* map is (N, H + 2r, G, (W + 2r) * D): reflected at the border, its C = G * D channels split so that the D maps of weights
lie beside each other and one row of a group is a single run of memory, whatever the tap. *Windows* are the (k, k, n, h, G, W * D)
view of it whose [dy, dx] is the tile as it lies under that tap. For one dx and one row of the tile, the windows of all dy are
different rows, so one operation can write to all of them.
"""

from collections.abc import Iterable, Iterator
from math import prod

import torch
from torch import Tensor

from models.ops.neighbourhood import fold_border

CPU_TILE_BYTES = 2**23
"""Working memory of a tile on a CPU: part of the last-level cache. Tiles for the second-level cache (1 MiB) took twice as long,
because of their many small calls."""
GPU_TILE_BYTES = 2**28

Tile = tuple[slice, slice]
"""Images and rows."""


class Scratch:
    """Named buffers that are allocated once and used again for every tile."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """A buffer of this shape, its content undefined."""
        size = prod(shape)
        if name not in self._buffers or self._buffers[name].numel() < size:
            self._buffers[name] = self._like.new_empty(size)
        return self._buffers[name][:size].view(shape)


def tiles(features: Tensor, row_floats: int, tile_bytes: int | None = None) -> Iterator[Tile]:
    """Cut (N, H, W, C) into tiles: some rows of all images or, if that is too much, one row of some images.

    Args:
        features: gives N, H, the size of an element and the device.
        row_floats: numbers of working memory for one row of one image.
        tile_bytes: working memory of a tile; the default is the device's.
    """
    images, height = features.shape[:2]
    if tile_bytes is None:
        tile_bytes = CPU_TILE_BYTES if features.device.type == "cpu" else GPU_TILE_BYTES
    affordable = max(1, tile_bytes // (row_floats * features.element_size()))
    for rows in _ranges(height, affordable // images):
        for some in _ranges(images, affordable):
            yield some, rows


def _ranges(size: int, most: int) -> Iterator[slice]:
    """Cut a range into equal parts (the last may be smaller) of at least 1 and at most `most`."""
    parts = -(-size // max(1, min(most, size)))
    step = -(-size // parts)
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def length(part: slice) -> int:
    """Number of positions in a slice without gaps."""
    return part.stop - part.start


def split_groups(features: Tensor, maps: int) -> Tensor:
    """View (N, H, W, C) as (N, H, G, W, D); channel g * D + d uses map d of the D weight maps."""
    return features.unflatten(-1, (-1, maps)).transpose(2, 3)


def pad(features: Tensor, maps: int, kernel_size: int) -> Tensor:
    """Make the padded map of (N, H, W, C): (N, H + 2r, G, (W + 2r) * D)."""
    r = kernel_size // 2
    inner = split_groups(features, maps)
    n, h, groups, w, _ = inner.shape
    padded = features.new_empty(n, h + 2 * r, groups, w + 2 * r, maps)
    padded[:, r : r + h, :, r : r + w] = inner
    if r:
        rows = padded[:, r : r + h]
        rows[:, :, :, :r] = rows[:, :, :, r + 1 : 2 * r + 1].flip(3)
        rows[:, :, :, w + r :] = rows[:, :, :, w - 1 : w + r - 1].flip(3)
        padded[:, :r] = padded[:, r + 1 : 2 * r + 1].flip(1)
        padded[:, h + r :] = padded[:, h - 1 : h + r - 1].flip(1)
    return padded.flatten(3)


def fold(padded: Tensor, maps: int, kernel_size: int) -> Tensor:
    """Adjoint of `pad`, which overwrites its input: back to (N, H, W, C)."""
    images_last = padded.unflatten(3, (-1, maps)).permute(0, 2, 4, 1, 3)  # (N, G, D, H + 2r, W + 2r)
    return fold_border(images_last, kernel_size).permute(0, 3, 4, 1, 2).flatten(3)


def windows(padded: Tensor, maps: int, kernel_size: int, tile: Tile) -> Tensor:
    """The tile under every tap: a (k, k, n, h, G, W * D) view of the padded map."""
    images, rows = tile
    part = padded[images, rows]
    n, h, groups, width = part.shape
    image, row, group, one = part.stride()
    shape = (kernel_size, kernel_size, n, h, groups, width - (kernel_size - 1) * maps)
    return part.as_strided(shape, (row, maps, image, row, group, one))


def add_to_windows(target: Tensor, values: Tensor, *, sign: int = 1) -> None:
    """Add (k, k, n, h, ...) values to windows, which overlap."""
    for row in range(target.shape[3]):
        for dx in range(target.shape[1]):
            target[:, dx, :, row].add_(values[:, dx, :, row], alpha=sign)


def aggregate(weights: Tensor, values: Tensor, scratch: Scratch) -> Tensor:
    """Sum values (k, k, n, h, G, W * D) times weights (k, k, n, h, W * D) over the taps: (n, h, G, W * D)."""
    maps = weights.unsqueeze(4)
    columns = scratch("columns", *values.shape[1:])  # one sum for every dy, over dx
    torch.mul(maps[:, 0], values[:, 0], out=columns)
    for dx in range(1, values.shape[1]):
        columns.addcmul_(maps[:, dx], values[:, dx])
    return torch.sum(columns, 0, out=scratch("aggregated", *values.shape[2:]))


def aggregate_tiles(
    alphas: Iterable[tuple[Tile, Tensor]], x3: Tensor, maps: int, kernel_size: int, scratch: Scratch
) -> Tensor:
    """Aggregate values (N, H, W, C) with the weights of one tile after the other, all tiles together covering the map."""
    values = pad(x3, maps, kernel_size)
    result = torch.empty_like(x3, memory_format=torch.contiguous_format)
    for tile, alpha in alphas:
        target = split_groups(result[tile], maps)
        target.copy_(aggregate(alpha, windows(values, maps, kernel_size, tile), scratch).view(target.shape))
    return result


def weight_gradient(gradient: Tensor, values: Tensor, scratch: Scratch) -> Tensor:
    """Gradient of `aggregate` (n, h, G, W * D) to its weights: (k, k, n, h, W * D)."""
    result = scratch("weight gradient", *values.shape[:4], values.shape[5])
    torch.mul(values[:, :, :, :, 0], gradient[:, :, 0], out=result)
    for group in range(1, values.shape[4]):
        result.addcmul_(values[:, :, :, :, group], gradient[:, :, group])
    return result


def add_value_gradient(target: Tensor, weights: Tensor, gradient: Tensor) -> None:
    """Add the gradient of `aggregate` to its values to windows (k, k, n, h, G, W * D)."""
    for row in range(target.shape[3]):
        for dx in range(target.shape[1]):
            target[:, dx, :, row].addcmul_(weights[:, dx, :, row].unsqueeze(2), gradient[:, row])


def pack_factor(width: int, channels: int) -> int:
    """How many neighbouring pixels of a row to multiply together by a block-diagonal matrix: libraries are slow below 16 channels.

    Pixels are packed within a row, so that a value that is not finite stays in its image.
    """
    factor = 1
    while factor * channels < 16 and width % (2 * factor) == 0:
        factor *= 2
    return factor


def block_diagonal(matrix: Tensor, blocks: int) -> Tensor:
    """Repeat (..., a, b) along the diagonal of (..., blocks * a, blocks * b)."""
    return matrix if blocks == 1 else torch.kron(torch.eye(blocks, dtype=matrix.dtype, device=matrix.device), matrix)


def mask_(gradient: Tensor, activation: Tensor) -> Tensor:
    """Set a gradient to zero in place where the ReLU it passes gave zero."""
    return torch.ops.aten.threshold_backward.grad_input(gradient, activation, 0, grad_input=gradient)
