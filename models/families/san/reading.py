"""The attention of a SAN, as maps over the image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.families.san.network import PairwiseAttention, PatchwiseAttention
from models.readings import Place, Reading, cell


def read(layer: PairwiseAttention | PatchwiseAttention, x: Tensor, _output: Tensor, query: Place | None) -> Reading:
    """Read the norm of each position's weights over weight maps and taps; for a query, the mean absolute weight of each tap.

    A reflected tap counts at the position where it lands.
    """
    weights = layer.attention(x)  # (N, maps, k*k, H*W)
    h, w = x.shape[-2:]
    if query is None:
        kind = "norm of the weights that each position gives its footprint"
        return Reading(kind, weights.norm(dim=(1, 2)).view(-1, 1, h, w))
    y, x_ = cell(query, h, w)
    k = layer.kernel_size
    taps = weights[..., y * w + x_].abs().mean(1).view(-1, k, k)
    rows, columns = (_landing(centre, k, size, taps) for centre, size in ((y, h), (x_, w)))
    return Reading(f"weights over the {k} x {k} footprint of the query", (rows.T @ taps @ columns).unsqueeze(1))


def _landing(centre: int, kernel_size: int, size: int, like: Tensor) -> Tensor:
    """Where the taps of one axis land after reflection at the border, one-hot: (k, size)."""
    positions = (torch.arange(kernel_size, device=like.device) + centre - kernel_size // 2).abs()
    positions = torch.where(positions < size, positions, 2 * (size - 1) - positions)
    return F.one_hot(positions, size).to(like.dtype)
