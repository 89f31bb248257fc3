"""When the Triton kernels of SAN run, and the operators that start them.

The operators belong to torch.library, so that torch.compile and CUDA graphs take them as they are. Triton is imported when the
first one runs. What does not fit runs in the plain formulations, which are the reference.
"""
# ruff: noqa: PLR0917  (operators take their tensors in order)

from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

HAS_TRITON = find_spec("triton") is not None
MIN_CAPABILITY = 8, 0
"""Of the GPU: the first with tensor cores for bfloat16 and float32."""
MAX_RELATION, MAX_CHANNELS = 128, 512
"""Of the pairwise kernels, as in the last stage of SAN: more would not fit into the registers."""
LARGE_RELATION, LARGE_SHARED_BYTES = 64, 160 * 1024
"""With more relation channels than this, the pairwise kernels need that much shared memory."""
MIN_DOT = 16
"""Smallest inner dimension of a product in Triton."""


def aggregation_fits(values: Tensor, weights: Tensor) -> bool:
    """Whether the kernels can aggregate values (N, C, H, W) with weights (N, G, k*k, H*W)."""
    addressable = max(values.numel(), weights.numel()) < 2**31 * len(values)
    return addressable and weights.shape[1] < 2**16 and _fits(values, weights)


def pairwise_fits(x1: Tensor, x2: Tensor, x3: Tensor, first: Tensor, second: Tensor, table: Tensor) -> bool:
    """Whether the kernels can attend with these operands of `pairwise_core` and `PairwiseWeights`."""
    (relation, maps), channels = second.shape, x3.shape[3]
    powers_of_two = all(size & (size - 1) == 0 for size in (maps, channels))
    small = relation <= MAX_RELATION and MIN_DOT <= channels <= MAX_CHANNELS
    addressable = x3.shape[1] * x3.shape[2] * max(x.stride(2) for x in (x1, x2, x3)) < 2**31
    shared_bytes = LARGE_SHARED_BYTES if relation > LARGE_RELATION else 0
    return (
        powers_of_two and small and addressable and _fits(x1, x2, x3, first, second, table, shared_bytes=shared_bytes)
    )


def _fits(*operands: Tensor, shared_bytes: int = 0) -> bool:
    """Whether operands have one type that the kernels know and lie on one GPU that can run them."""
    first = operands[0]
    return (
        HAS_TRITON
        and first.is_cuda
        and first.dtype in {torch.float32, torch.bfloat16, torch.float16}
        and all(x.dtype == first.dtype and x.device == first.device for x in operands)
        and first.numel() > 0
        and _is_able(first.device, shared_bytes)
    )


def _is_able(device: torch.device, shared_bytes: int) -> bool:
    properties = torch.cuda.get_device_properties(device)
    is_new = (properties.major, properties.minor) >= MIN_CAPABILITY
    return is_new and properties.shared_memory_per_block_optin >= shared_bytes


@torch.library.custom_op("withstand::san_aggregation", mutates_args=())
def aggregation(values: Tensor, weights: Tensor, kernel_size: int) -> Tensor:
    """`neighbourhood.aggregation` of what fits."""
    values, weights = values.contiguous(), weights.contiguous()
    result = torch.empty_like(values)
    _start_aggregation("aggregation_forward", (values, weights, result), weights.shape[1], kernel_size)
    return result


@torch.library.custom_op("withstand::san_aggregation_backward", mutates_args=())
def aggregation_backward(gradient: Tensor, values: Tensor, weights: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    """Gradients to values and weights."""
    gradient, values, weights = gradient.contiguous(), values.contiguous(), weights.contiguous()
    to_values, to_weights = torch.empty_like(values), torch.empty_like(weights)
    maps = weights.shape[1]
    _start_aggregation("aggregation_backward_values", (gradient, weights, to_values), maps, kernel_size)
    _start_aggregation("aggregation_backward_weights", (gradient, values, to_weights), maps, kernel_size)
    return to_values, to_weights


@torch.library.custom_op("withstand::san_pairwise", mutates_args=())
def pairwise(
    x1: Tensor, x2: Tensor, x3: Tensor, first: Tensor, second: Tensor, table: Tensor, kernel_size: int
) -> tuple[Tensor, Tensor]:
    """`pairwise_core` of what fits, and the logarithm of what its softmax divided by, for the backward pass."""
    outputs = _empty(x3), _per_map(x3, second)
    _start_pairwise("pairwise_forward", (), (x1, x2, x3, first, second, table), outputs, kernel_size)
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
    operands = x1, x2, x3, first, second, table
    to1, to2, to3 = _empty(x1), _empty(x2), _empty(x3)
    softmax = logsumexp, torch.empty_like(logsumexp)
    _start_pairwise("pairwise_backward_centres", (gradient, result), operands, (*softmax, to1), kernel_size)
    _start_pairwise("pairwise_backward_neighbours", (gradient,), operands, (*softmax, to2, to3), kernel_size)
    return to1, to2, to3


def _empty(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _per_map(x3: Tensor, second: Tensor) -> Tensor:
    """A number for every pixel and map, the maps repeated as in the kernels."""
    n, height, width, _ = x3.shape
    return x3.new_empty(n, height * width, max(MIN_DOT, second.shape[1]), dtype=torch.float32)


class Launch(NamedTuple):
    """Tile of pixels and warps of a program."""

    height: int
    width: int
    warps: int

    def programs(self, images: int, height: int, width: int) -> int:
        """Programs for all tiles of maps."""
        return images * -(-height // self.height) * -(-width // self.width)


def pairwise_launch(relation: int, channels: int) -> Launch:
    """Choose the tile so that its sums stay in registers, as the compiler reports for sm_90."""
    size = max(4 * relation, channels)
    if size <= 64:
        return Launch(8, 8, 4) if size <= 16 else Launch(4, 8, 4)
    return Launch(4, 4, 4) if size <= 128 else Launch(4, 4, 8)


def aggregation_launch(width: int) -> Launch:
    """Choose the tile so that its rows are runs of memory."""
    across = min(32, max(8, _power_of_two(width)))
    return Launch(128 // across, across, 4)


def _start_pairwise(
    name: str,
    before: tuple[Tensor, ...],
    operands: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
    kernel_size: int,
) -> None:
    *inputs, first, second, table = operands
    (x1, x2, x3), strides = zip(*map(_by_pixels, inputs), strict=True)
    n, height, width, channels = x3.shape
    relation, distinct = second.shape
    maps = max(MIN_DOT, distinct)
    launch = pairwise_launch(relation, channels)
    arguments = *before, x1, x2, x3, first.contiguous(), second.contiguous(), table.contiguous(), *outputs
    constants = {
        "RELATION": relation,
        "PADDED": max(MIN_DOT, _power_of_two(relation)),
        "DISTINCT": distinct,
        "MAPS": maps,
        "GROUPS": channels // maps,
        "PRECISION": "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32",
    }
    grid = (launch.programs(n, height, width),)
    _start(name, grid, (*arguments, *strides, height, width), launch, {"K": kernel_size, **constants})


def _start_aggregation(name: str, operands: tuple[Tensor, ...], maps: int, kernel_size: int) -> None:
    n, channels, height, width = operands[0].shape
    per_map = channels // maps
    block = min(16, _power_of_two(per_map))
    launch = aggregation_launch(width)
    chunks = 1 if name == "aggregation_backward_weights" else -(-per_map // block)
    grid = launch.programs(n, height, width), maps, chunks
    _start(name, grid, (*operands, height, width, per_map), launch, {"K": kernel_size, "BLOCK_C": block})


def _start(
    name: str, grid: tuple[int, ...], arguments: tuple[Tensor | int, ...], launch: Launch, constants: dict[str, Any]
) -> None:
    from models.ops import triton_kernels  # noqa: PLC0415  # where Triton is missing, nothing fits

    first = next(x for x in arguments if isinstance(x, Tensor))
    kernel: Any = getattr(triton_kernels, name)
    tile = {"BLOCK_H": launch.height, "BLOCK_W": launch.width}
    with _on_device_of(first):
        kernel[grid](*arguments, **constants, **tile, num_warps=launch.warps, num_stages=2, enable_fp_fusion=True)


def _on_device_of(x: Tensor) -> AbstractContextManager[Any]:
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()  # on a CPU, Triton's interpreter


def _by_pixels(x: Tensor) -> tuple[Tensor, int]:
    """A map (N, H, W, C) whose pixels lie one number of elements apart, and this number; copied if need be."""
    _, height, width, channels = x.shape
    apart = x.stride(2)
    if x.stride() == (height * width * apart, width * apart, apart, 1):
        return x, apart
    return x.contiguous(), channels


def _power_of_two(size: int) -> int:
    """Round up."""
    return 1 << (size - 1).bit_length()


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
