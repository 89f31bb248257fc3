"""Relative position logits of self-attention over a map (AA-ResNet, arXiv:1904.09925).

A table for L positions has 2L - 1 rows, one for each offset: row r belongs to offset j - i = r - (L - 1) from query i to key j.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

WIDTH_MULTIPLE = 8
"""Fused attention kernels need widths that are a multiple of this."""


def relative_logits(queries: Tensor, table: Tensor) -> Tensor:
    """Multiply every query along one axis with the table's row for its offset to every key.

    All offsets are multiplied at once, (..., L, 2L - 1), and the rows then shifted into place by padding and reshaping (the
    paper's appendix).

    Args:
        queries: (..., L, D).
        table: (2L - 1, D).

    Returns:
        (..., L, L); element i, j is queries[i] · table[j - i + L - 1].

    Raises:
        ValueError: the table is not (2L - 1, D).
    """
    _require_table(queries, table)
    length = queries.shape[-2]
    by_offset = F.pad(queries @ table.mT, (0, 1))  # (..., L, 2L)
    flat = F.pad(
        by_offset.flatten(-2), (0, length - 1)
    )  # (..., (L + 1) * (2L - 1)): each row begins one position later
    return flat.unflatten(-1, (length + 1, 2 * length - 1))[..., :length, length - 1 :]


def one_hot_positions(height: int, width: int, dims: int) -> Tensor:
    """Row and column of every position of a map, one-hot, then zeros: (H*W, H + W + Z).

    As the last dimensions of the keys, they select each key's entries of `append_relative_logits`.

    Args:
        height: of the map.
        width: of the map.
        dims: D, of the keys themselves; Z makes D + H + W + Z a multiple of WIDTH_MULTIPLE.
    """
    rows = torch.eye(height).unsqueeze(1).expand(-1, width, -1)
    columns = torch.eye(width).expand(height, -1, -1)
    zeros = torch.zeros(1).expand(height, width, -(dims + height + width) % WIDTH_MULTIPLE)
    return torch.cat([rows, columns, zeros], -1).flatten(0, 1)


def append_relative_logits(queries: Tensor, rel_h: Tensor, rel_w: Tensor, added: int) -> Tensor:
    """Append to every query its relative logits for every row of the map, then for every column, then zeros.

    The product with keys that end in `one_hot_positions` is Q K^T + S_H + S_W; no tensor of size positions x positions is needed.

    Args:
        queries: (N, heads, H, W, D).
        rel_h: (2H - 1, D).
        rel_w: (2W - 1, D).
        added: numbers to append, H + W or more.

    Returns:
        (N, heads, H*W, D + added).

    Raises:
        ValueError: a table does not fit the map.
    """
    vertical = relative_logits(queries.transpose(2, 3), rel_h).transpose(2, 3)  # (N, heads, H, W, H)
    horizontal = relative_logits(queries, rel_w)  # (N, heads, H, W, W)
    zeros = queries.new_zeros(1).expand(*queries.shape[:-1], added - sum(queries.shape[2:4]))
    return torch.cat([queries, vertical, horizontal, zeros], -1).flatten(2, 3)


def _require_table(queries: Tensor, table: Tensor) -> None:
    length, dims = queries.shape[-2:]
    if table.shape != (2 * length - 1, dims):
        raise ValueError(
            f"the table for {length} positions must be (2L - 1 = {2 * length - 1}, D = {dims}), got {tuple(table.shape)}"
        )
