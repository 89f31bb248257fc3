"""When the Triton kernels of SAN run, and the operators that start them.

The operators are registered with torch.library, so that torch.compile and CUDA graphs can use them. Triton is imported when the
first one runs. Whether kernels fit a GPU, and how to start them, is measured: they are compiled and timed there, once per shape.
Where they do not fit, other formulations run, which are the reference.
"""
# ruff: noqa: PLR0917  (operators take their tensors in order)

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from models.ops.triton_choice import chosen, kernels_fit
from models.ops.triton_fit import MIN_DOT, Kernel, aggregation_kernels, current, pairwise_kernels, pixel_stride

HAS_TRITON = find_spec("triton") is not None
MIN_CAPABILITY = 8, 0
"""Compute capability of the first GPUs with tensor cores for bfloat16 and float32."""
MAX_RELATION, MAX_CHANNELS = 128, 512
"""Largest numbers of channels for the pairwise kernels, as in the last stage of SAN: more has never been tried."""


def aggregation_fits(values: Tensor, weights: Tensor, kernel_size: int) -> bool:
    """Whether the kernels can aggregate values (N, C, H, W) with weights (N, G, k*k, H*W)."""
    addressable = max(values.numel(), weights.numel()) < 2**31 * len(values)
    return (
        addressable
        and weights.shape[1] < 2**16
        and _are_known(values, weights)
        and kernels_fit(aggregation_kernels(values.shape, weights.shape[1], kernel_size), values.dtype, values.device)
    )


def pairwise_fits(
    x1: Tensor, x2: Tensor, x3: Tensor, first: Tensor, second: Tensor, table: Tensor, kernel_size: int
) -> bool:
    """Whether the kernels can attend with these operands of `pairwise_core` and `PairwiseWeights`."""
    (relation, maps), channels = second.shape, x3.shape[3]
    powers_of_two = all(size & (size - 1) == 0 for size in (maps, channels))
    small = relation <= MAX_RELATION and MIN_DOT <= channels <= MAX_CHANNELS
    addressable = x3.shape[1] * x3.shape[2] * max(x.stride(2) for x in (x1, x2, x3)) < 2**31
    return (
        powers_of_two
        and small
        and addressable
        and _are_known(x1, x2, x3, first, second, table)
        and kernels_fit(pairwise_kernels(x1, x2, x3, second, kernel_size), x3.dtype, x3.device)
    )


def _are_known(*operands: Tensor) -> bool:
    """Whether operands have one type that the kernels know and lie on one GPU of a kind that can run them."""
    first = operands[0]
    return (
        HAS_TRITON
        and first.is_cuda
        and first.dtype in {torch.float32, torch.bfloat16, torch.float16}
        and all(x.dtype == first.dtype and x.device == first.device for x in operands)
        and first.numel() > 0
        and torch.cuda.get_device_capability(first.device) >= MIN_CAPABILITY
    )


@torch.library.custom_op("withstand::san_aggregation", mutates_args=())
def aggregation(values: Tensor, weights: Tensor, kernel_size: int) -> Tensor:
    """`neighbourhood.aggregation` of what fits."""
    values, weights = values.contiguous(), weights.contiguous()
    result = torch.empty_like(values)
    forward, _, _ = aggregation_kernels(values.shape, weights.shape[1], kernel_size)
    _start(forward, values, weights, result)
    return result


@torch.library.custom_op("withstand::san_aggregation_backward", mutates_args=())
def aggregation_backward(gradient: Tensor, values: Tensor, weights: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    """Gradients to values and weights."""
    gradient, values, weights = gradient.contiguous(), values.contiguous(), weights.contiguous()
    to_values, to_weights = torch.empty_like(values), torch.empty_like(weights)
    _, of_values, of_weights = aggregation_kernels(values.shape, weights.shape[1], kernel_size)
    _start(of_values, gradient, weights, to_values)
    _start(of_weights, gradient, values, to_weights)
    return to_values, to_weights


@torch.library.custom_op("withstand::san_pairwise", mutates_args=())
def pairwise(
    x1: Tensor, x2: Tensor, x3: Tensor, first: Tensor, second: Tensor, table: Tensor, kernel_size: int
) -> tuple[Tensor, Tensor]:
    """`pairwise_core` of what fits, and the logarithm of what its softmax divided by, for the backward pass."""
    x1, x2, x3 = map(_by_pixels, (x1, x2, x3))
    forward, _, _ = pairwise_kernels(x1, x2, x3, second, kernel_size)
    outputs = _empty(x3), _per_map(x3, second)
    matrices = first.contiguous(), second.contiguous(), table.contiguous()
    _start(forward, x1, x2, x3, *matrices, *outputs)
    return outputs


@torch.library.custom_op("withstand::san_pairwise_backward", mutates_args=())
def pairwise_backward(
    gradient: Tensor,
    result: Tensor,
    logsumexp: Tensor,
    x1: Tensor,
    x2: Tensor,
    x3: Tensor,
    first: Tensor,
    second: Tensor,
    table: Tensor,
    kernel_size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to x1, x2 and x3."""
    gradient = gradient.contiguous()
    x1, x2, x3 = map(_by_pixels, (x1, x2, x3))
    _, centres, neighbours = pairwise_kernels(x1, x2, x3, second, kernel_size)
    operands = x1, x2, x3, first.contiguous(), second.contiguous(), table.contiguous()
    to1, to2, to3 = _empty(x1), _empty(x2), _empty(x3)
    softmax = logsumexp, torch.empty_like(logsumexp)
    _start(centres, gradient, result, *operands, *softmax, to1)
    _start(neighbours, gradient, *operands, *softmax, to2, to3)
    return to1, to2, to3


def _empty(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _per_map(x3: Tensor, second: Tensor) -> Tensor:
    """A number for every pixel and map, the maps repeated as in the kernels."""
    n, height, width, _ = x3.shape
    return x3.new_empty(n, height * width, max(MIN_DOT, second.shape[1]), dtype=torch.float32)


def _start(kernel: Kernel, *tensors: Tensor) -> None:
    first = tensors[0]
    with current(first.device):
        chosen(kernel, first.dtype, first.device).start(len(first), tensors)


def _by_pixels(x: Tensor) -> Tensor:
    """A map (N, H, W, C) whose pixels lie one number of elements apart; copied if need be."""
    return x if pixel_stride(x) == x.stride(2) else x.contiguous()


def _fake_aggregation(values: Tensor, weights: Tensor, kernel_size: int) -> Tensor:
    return _empty(values)


def _fake_aggregation_backward(
    gradient: Tensor, values: Tensor, weights: Tensor, kernel_size: int
) -> tuple[Tensor, Tensor]:
    return _empty(values), _empty(weights)


def _fake_pairwise(
    x1: Tensor, x2: Tensor, x3: Tensor, first: Tensor, second: Tensor, table: Tensor, kernel_size: int
) -> tuple[Tensor, Tensor]:
    return _empty(x3), _per_map(x3, second)


def _fake_pairwise_backward(
    gradient: Tensor,
    result: Tensor,
    logsumexp: Tensor,
    x1: Tensor,
    x2: Tensor,
    x3: Tensor,
    first: Tensor,
    second: Tensor,
    table: Tensor,
    kernel_size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(x1), _empty(x2), _empty(x3)


def _keep_aggregation(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, weights, ctx.kernel_size = inputs
    ctx.save_for_backward(values, weights)


def _differentiate_aggregation(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return *aggregation_backward(gradient, *ctx.saved_tensors, ctx.kernel_size), None


def _keep_pairwise(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *operands, ctx.kernel_size = inputs
    ctx.set_materialize_grads(False)  # logsumexp has none
    ctx.save_for_backward(*output, *operands)


def _differentiate_pairwise(ctx: Any, gradient: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return (None,) * 7
    return *pairwise_backward(gradient, *ctx.saved_tensors, ctx.kernel_size), None, None, None, None


aggregation.register_fake(_fake_aggregation)
aggregation.register_autograd(_differentiate_aggregation, setup_context=_keep_aggregation)
aggregation_backward.register_fake(_fake_aggregation_backward)
pairwise.register_fake(_fake_pairwise)
pairwise.register_autograd(_differentiate_pairwise, setup_context=_keep_pairwise)
pairwise_backward.register_fake(_fake_pairwise_backward)
