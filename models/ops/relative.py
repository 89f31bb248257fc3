"""Relative position logits of self-attention over a map (AA-ResNet, arXiv:1904.09925).

A table for L places has 2L - 1 rows, one for each offset: row r belongs to offset j - i = r - (L - 1) from query i to key j.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


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
    flat = F.pad(by_offset.flatten(-2), (0, length - 1))  # (..., (L + 1) * (2L - 1)): each row begins one place later
    return flat.unflatten(-1, (length + 1, 2 * length - 1))[..., :length, length - 1 :]


def relative_logits_by_index(queries: Tensor, table: Tensor) -> Tensor:
    """Compute `relative_logits` as it is defined, with a table row looked up for every pair of places."""
    _require_table(queries, table)
    places = torch.arange(queries.shape[-2], device=queries.device)
    rows = table[places - places.unsqueeze(1) + len(places) - 1]  # (L, L, D)
    return torch.einsum("...id,ijd->...ij", queries, rows)


def relative_logits_2d(queries: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """Add the logits of the vertical and of the horizontal offset for every pair of positions of a map (S_H + S_W).

    Args:
        queries: (N, heads, H, W, D).
        rel_h: (2H - 1, D).
        rel_w: (2W - 1, D).

    Returns:
        (N, heads, H*W, H*W).

    Raises:
        ValueError: a table does not fit the map.
    """
    vertical = relative_logits(queries.transpose(2, 3), rel_h).transpose(2, 3)  # (N, heads, H, W, H)
    horizontal = relative_logits(queries, rel_w)  # (N, heads, H, W, W)
    return (vertical.unsqueeze(-1) + horizontal.unsqueeze(-2)).flatten(4).flatten(2, 3)


def _require_table(queries: Tensor, table: Tensor) -> None:
    length, dims = queries.shape[-2:]
    if table.shape != (2 * length - 1, dims):
        raise ValueError(
            f"the table for {length} places must be (2L - 1 = {2 * length - 1}, D = {dims}), got {tuple(table.shape)}"
        )
