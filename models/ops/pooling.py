"""Pooling, norm and ReLU of maps (N, H, W, C) that store little for the gradient."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.ops.tiles import tiles


def norm_relu(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """relu(scale * x + shift)."""
    return cast(Tensor, _NormReLU.apply(x, scale, shift))


def max_pool(x: Tensor) -> Tensor:
    """2x2 max-pooling: (N, H/2, W/2, C)."""
    return cast(Tensor, _MaxPool.apply(x))


def convolve_and_pool(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """1x1 convolution of images (N, 3, H, W) with weight (3, C), and 2x2 max-pooling: (N, H/2, W/2, C)."""
    return cast(Tensor, _ConvolveAndPool.apply(images, weight, bias))


class _NormReLU(torch.autograd.Function):
    """relu(scale * x + shift). Stores its result: a mask of bytes would take a quarter of the memory, but several times as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        result = torch.addcmul(shift, x, scale).relu_()
        ctx.save_for_backward(result, scale)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        result, scale = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient, result, 0).mul_(scale), None, None


class _MaxPool(torch.autograd.Function):
    """2x2 max-pooling of (N, H, W, C) that stores two bytes per result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        result, is_lower, is_right = _largest(*_quarters(x))
        ctx.save_for_backward(is_lower, is_right)
        ctx.shape = x.shape
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        result = gradient.new_zeros(ctx.shape)
        for target, value in zip(_quarters(result), _to_largest(gradient, *ctx.saved_tensors), strict=True):
            target.copy_(value)
        return result


class _ConvolveAndPool(torch.autograd.Function):
    """1x1 convolution of images (N, 3, H, W) and 2x2 max-pooling: (N, H/2, W/2, C); full resolution exists only in tiles."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        quarters = _quarters(images.permute(0, 2, 3, 1))  # of (N, H, W, 3)
        result = images.new_empty(*quarters[0].shape[:3], len(bias))
        is_lower, is_right = (torch.empty_like(result, dtype=torch.bool) for _ in range(2))
        for tile in tiles(result, 6 * result.shape[2] * len(bias)):
            pixels = [quarter[tile].reshape(-1, 3) for quarter in quarters]
            largest = _largest(*(torch.addmm(bias, pixel, weight) for pixel in pixels))
            for target, value in zip((result, is_lower, is_right), largest, strict=True):
                target[tile] = value.view(target[tile].shape)
        ctx.save_for_backward(is_lower, is_right, weight)
        ctx.shape = images.shape
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        is_lower, is_right, weight = ctx.saved_tensors
        result = gradient.new_zeros(ctx.shape)
        quarters = _quarters(result.permute(0, 2, 3, 1))
        for tile in tiles(gradient, 6 * gradient.shape[2] * gradient.shape[3]):
            parts = _to_largest(gradient[tile], is_lower[tile], is_right[tile])
            for quarter, part in zip(quarters, parts, strict=True):
                quarter[tile] = part @ weight.t()
        return result, None, None


def _largest(
    upper_left: Tensor, upper_right: Tensor, lower_left: Tensor, lower_right: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Largest of four, whether it is a lower one, and whether it is a right one; of equal numbers the first counts, as in torch."""
    upper, lower = torch.maximum(upper_left, upper_right), torch.maximum(lower_left, lower_right)
    is_lower = lower > upper
    of_upper = upper_right > upper_left
    of_lower = lower_right > lower_left
    return torch.maximum(upper, lower), is_lower, of_upper ^ (is_lower & (of_upper ^ of_lower))


def _to_largest(gradient: Tensor, is_lower: Tensor, is_right: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Adjoint of `_largest`, in arithmetic on numbers, which is faster than selection."""
    right = is_right.to(gradient.dtype)
    lower = gradient * is_lower.to(gradient.dtype)
    upper = gradient - lower
    upper_right, lower_right = upper * right, lower * right
    return upper - upper_right, upper_right, lower - lower_right, lower_right


def _quarters(x: Tensor) -> list[Tensor]:
    """The four positions of all 2x2 squares of (N, H, W, C), row by row; an odd last row or column is left out."""
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    return [x[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
