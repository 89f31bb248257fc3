"""The operations of self-attention over a k x k neighbourhood (SAN, arXiv:2004.13621, Sec. 3).

A *tap* is a position of the k x k footprint; tap t = ky * k + kx lies ky - k//2 rows below and kx - k//2 columns right of the
centre. Beyond the border the map is reflected without repeating the edge.

On a CPU, both operations loop over the taps with shifted views of the padded map and store only their inputs for the backward pass.
Gathering the taps first (unfold) needs k*k copies of the features, but few operations: `benchmarks/san_ops.py` compares the two. It
is used on a GPU, some images at a time, and under torch.compile, which can trace it. On a GPU, the kernels of `triton_ops` do the
aggregation where they fit.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.ops import triton_ops

Formulation = Literal["kernels", "unfold", "taps"]
"""Triton kernels; gathered taps; loops over taps."""

GATHERED_BYTES = 2**28
"""Bytes of taps that are gathered at once on a GPU."""


def formulation(device_type: str, *, kernels_fit: bool, compiling: bool = False) -> Formulation:
    """Choose how operations over a neighbourhood are computed.

    Args:
        device_type: of their operands, for example "cuda".
        kernels_fit: whether kernels for these operands are known to run there.
        compiling: whether torch.compile is tracing.
    """
    if kernels_fit:
        return "kernels"
    return "taps" if device_type == "cpu" and not compiling else "unfold"


def in_chunks(function: Callable[..., Tensor], *operands: Tensor, kernel_size: int, channels: int) -> Tensor:
    """Apply a function of images to some images at a time, so that at most GATHERED_BYTES of taps are gathered.

    If several calls are needed, the backward pass computes them again, and only the operands are stored until then.

    Args:
        function: of operands (N, ...), returns (N, ...).
        operands: (N, ..., H, W).
        kernel_size: footprint k.
        channels: number of channels gathered under each of the k*k taps.
    """
    images, pixels = len(operands[0]), operands[0].shape[-2] * operands[0].shape[-1]
    chunk = max(1, GATHERED_BYTES // (channels * kernel_size**2 * pixels * operands[0].element_size()))
    if images <= chunk or torch.compiler.is_compiling():
        return function(*operands)
    parts = zip(*(operand.split(chunk) for operand in operands), strict=True)
    results = [checkpoint(function, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return torch.cat(results)


def aggregation(values: Tensor, weights: Tensor, kernel_size: int) -> Tensor:
    """Sum, at every position, the values under the taps times their weights (Eq. 2).

    Channel c uses weight map c modulo G, as in the authors' kernels.

    Args:
        values: (N, C, H, W), H and W larger than kernel_size // 2.
        weights: (N, G, k*k, H*W), G dividing C.
        kernel_size: odd footprint k.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: a shape does not fit.
    """
    n, c, h, w = values.shape
    _require_map(values, kernel_size)
    if weights.shape[0] != n or weights.shape[2:] != (kernel_size**2, h * w) or c % weights.shape[1]:
        raise ValueError(
            f"weights must be (N={n}, G dividing {c}, k*k={kernel_size**2}, H*W={h * w}), got {tuple(weights.shape)}"
        )
    dtype = torch.promote_types(values.dtype, weights.dtype)  # under autocast, softmax returns float32
    values, weights = values.to(dtype), weights.to(dtype)
    fits = triton_ops.aggregation_fits(values, weights, kernel_size)
    match formulation(values.device.type, kernels_fit=fits, compiling=torch.compiler.is_compiling()):
        case "kernels":
            return triton_ops.aggregation(values, weights, kernel_size)
        case "unfold":
            unfolded = partial(unfolded_aggregation, kernel_size=kernel_size)
            return in_chunks(unfolded, values, weights, kernel_size=kernel_size, channels=c)
        case "taps":
            return _Aggregation.apply(values, weights, kernel_size)


def subtraction(centres: Tensor, neighbours: Tensor, kernel_size: int) -> Tensor:
    """Subtract the neighbour under each tap from the centre (the subtraction relation, Sec. 3.1).

    Args:
        centres: (N, C, H, W), H and W larger than kernel_size // 2.
        neighbours: (N, C, H, W).
        kernel_size: odd footprint k.

    Returns:
        (N, C, k*k, H*W).

    Raises:
        ValueError: a shape does not fit.
    """
    if centres.shape != neighbours.shape:
        raise ValueError(f"centres {tuple(centres.shape)} and neighbours {tuple(neighbours.shape)} must have one shape")
    _require_map(centres, kernel_size)
    if formulation(centres.device.type, kernels_fit=False, compiling=torch.compiler.is_compiling()) == "unfold":
        unfolded, channels = partial(unfolded_subtraction, kernel_size=kernel_size), centres.shape[1]
        return in_chunks(unfolded, centres, neighbours, kernel_size=kernel_size, channels=channels)
    dtype = torch.promote_types(centres.dtype, neighbours.dtype)
    return _Subtraction.apply(centres.to(dtype), neighbours.to(dtype), kernel_size)


def gather_taps(features: Tensor, kernel_size: int) -> Tensor:
    """Collect the features under every tap: (N, C, H, W) -> (N, C*k*k, H*W), channel-major, taps innermost.

    Raises:
        ValueError: H or W is not larger than kernel_size // 2.
    """
    _require_map(features, kernel_size)
    return F.unfold(_pad(features, kernel_size), kernel_size)


def unfolded_aggregation(values: Tensor, weights: Tensor, kernel_size: int) -> Tensor:
    """Compute `aggregation` by gathering all taps."""
    n, c, h, w = values.shape
    taps = gather_taps(values, kernel_size).view(n, -1, weights.shape[1], kernel_size**2, h * w)
    return (taps * weights.unsqueeze(1)).sum(3).view(n, c, h, w)


def unfolded_subtraction(centres: Tensor, neighbours: Tensor, kernel_size: int) -> Tensor:
    """Compute `subtraction` by gathering all taps."""
    taps = gather_taps(neighbours, kernel_size).view(*centres.shape[:2], kernel_size**2, -1)
    return centres.flatten(2).unsqueeze(2) - taps


def _require_map(features: Tensor, kernel_size: int) -> None:
    height, width = features.shape[-2:]
    if kernel_size % 2 == 0 or kernel_size < 1:
        raise ValueError(f"the footprint must be odd and positive, got {kernel_size}")
    if min(height, width) <= kernel_size // 2:
        raise ValueError(
            f"a footprint of {kernel_size} needs a map larger than {kernel_size // 2} in both directions, "
            f"got {height} x {width}: use larger images or a smaller footprint"
        )


def _pad(x: Tensor, kernel_size: int) -> Tensor:
    return F.pad(x, (kernel_size // 2,) * 4, mode="reflect")


def _taps(kernel_size: int, height: int, width: int) -> list[tuple[slice, slice]]:
    """For each tap, the rows and columns of the padded map that lie under it."""
    offsets = range(kernel_size)
    return [(slice(dy, dy + height), slice(dx, dx + width)) for dy in offsets for dx in offsets]


def fold_border(padded: Tensor, kernel_size: int) -> Tensor:
    """Adjoint of reflection padding: add what lies beyond the border back to where it was reflected from."""
    r = kernel_size // 2
    h, w = padded.shape[-2] - 2 * r, padded.shape[-1] - 2 * r
    if r:
        padded[..., r + 1 : 2 * r + 1, :] += padded[..., :r, :].flip(-2)
        padded[..., h - 1 : h + r - 1, :] += padded[..., h + r :, :].flip(-2)
        padded[..., :, r + 1 : 2 * r + 1] += padded[..., :, :r].flip(-1)
        padded[..., :, w - 1 : w + r - 1] += padded[..., :, w + r :].flip(-1)
    return padded[..., r : r + h, r : r + w]


class _Aggregation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor, kernel_size: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(values, weights)
        ctx.kernel_size = kernel_size
        n, c, h, w = values.shape
        groups = weights.shape[1]
        padded = _pad(values, kernel_size).view(n, c // groups, groups, *(s + kernel_size - 1 for s in (h, w)))
        maps = weights.reshape(n, 1, groups, kernel_size**2, h, w)
        result = values.new_zeros(n, c // groups, groups, h, w)
        for tap, (rows, columns) in enumerate(_taps(kernel_size, h, w)):
            result.addcmul_(maps[:, :, :, tap], padded[..., rows, columns])
        return result.view(n, c, h, w)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        values, weights = ctx.saved_tensors
        k: int = ctx.kernel_size
        n, c, h, w = values.shape
        groups = weights.shape[1]
        padded = _pad(values, k).view(n, c // groups, groups, h + k - 1, w + k - 1)
        maps = weights.reshape(n, 1, groups, k**2, h, w)
        gradient = gradient.contiguous().view(n, c // groups, groups, h, w)
        value_gradient = torch.zeros_like(padded)
        weight_gradient = torch.empty_like(maps[:, 0])
        product = torch.empty_like(gradient)
        for tap, (rows, columns) in enumerate(_taps(k, h, w)):
            value_gradient[..., rows, columns].addcmul_(maps[:, :, :, tap], gradient)
            torch.mul(gradient, padded[..., rows, columns], out=product)
            torch.sum(product, 1, out=weight_gradient[:, :, tap])
        folded = fold_border(value_gradient, k).reshape(n, c, h, w)
        return folded, weight_gradient.view_as(weights), None


class _Subtraction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, centres: Tensor, neighbours: Tensor, kernel_size: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.kernel_size = kernel_size
        n, c, h, w = centres.shape
        ctx.map_size = h, w
        padded = _pad(neighbours, kernel_size)
        result = centres.new_empty(n, c, kernel_size**2, h, w)
        for tap, (rows, columns) in enumerate(_taps(kernel_size, h, w)):
            torch.sub(centres, padded[..., rows, columns], out=result[:, :, tap])
        return result.view(n, c, kernel_size**2, h * w)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        k: int = ctx.kernel_size
        h, w = ctx.map_size
        n, c = gradient.shape[:2]
        gradient = gradient.reshape(n, c, k**2, h, w)
        padded = gradient.new_zeros(n, c, h + k - 1, w + k - 1)
        for tap, (rows, columns) in enumerate(_taps(k, h, w)):
            padded[..., rows, columns].sub_(gradient[:, :, tap])
        return gradient.sum(2), fold_border(padded, k).contiguous(), None
