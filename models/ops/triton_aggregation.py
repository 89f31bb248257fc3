# ruff: noqa: N803, PLR0917  (constants are capitals)
# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false, reportGeneralTypeIssues=false
"""Triton kernels of the aggregation of values with weights that are given; see `triton_tiles`."""

import triton
import triton.language as tl

from models.ops.triton_tiles import any_of, centre_of, tile_of_program, under_tap

# The operands of the three aggregation kernels: values (N, C, H, W) and weights (N, G, k*k, H*W), contiguous. The second dimension
# of the grid is the weight map; its C / G channels are taken BLOCK_C at a time, in the forward pass and for the gradient to the
# values by the third dimension of the grid.


@triton.jit
def _channel_rows(image, first_of_chunk, pixels, PER_MAP: tl.constexpr, BLOCK_C: tl.constexpr):
    """Offsets of the maps of values of some channels of this program's weight map, (BLOCK_C, 1), and whether they exist."""
    index = first_of_chunk + tl.arange(0, BLOCK_C)
    maps = tl.num_programs(1)
    channel = image * (PER_MAP * maps) + index * maps + tl.program_id(1)
    return (channel * pixels)[:, None], (index < PER_MAP)[:, None]


@triton.jit
def aggregation_forward(
    values, weights, result, height, width,
    PER_MAP: tl.constexpr, K: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Sum the values under the taps times their weights."""
    image, y, x, inside = tile_of_program(height, width, BLOCK_H, BLOCK_W)
    pixels = height * width
    pixel = y * width + x
    rows, exist = _channel_rows(image, tl.program_id(2) * BLOCK_C, pixels, PER_MAP, BLOCK_C)
    maps = weights + (image * tl.num_programs(1) + tl.program_id(1)) * (K * K) * pixels
    total = tl.zeros([BLOCK_C, BLOCK_H * BLOCK_W], tl.float32)
    for tap in range(K * K):
        weight = tl.load(maps + tap * pixels + pixel).to(tl.float32)
        under = under_tap(y, x, tap, height, width, K)
        total += weight[None, :] * tl.load(values + rows + under[None, :], mask=exist, other=0.0).to(tl.float32)
    tl.store(result + rows + pixel[None, :], total.to(result.dtype.element_ty), mask=exist & inside[None, :])


@triton.jit
def aggregation_backward_values(
    gradient, weights, value_gradient, height, width,
    PER_MAP: tl.constexpr, K: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Gather the gradient to the values from all centres in whose footprints a pixel lies."""
    image, y, x, inside = tile_of_program(height, width, BLOCK_H, BLOCK_W)
    pixels = height * width
    rows, exist = _channel_rows(image, tl.program_id(2) * BLOCK_C, pixels, PER_MAP, BLOCK_C)
    maps = weights + (image * tl.num_programs(1) + tl.program_id(1)) * (K * K) * pixels
    total = tl.zeros([BLOCK_C, BLOCK_H * BLOCK_W], tl.float32)
    for row in range(3 * K):
        cy, in_rows = centre_of(y, height, row, K)
        in_rows = in_rows & inside
        if any_of(in_rows):
            for column in range(3 * K):
                cx, in_columns = centre_of(x, width, column, K)
                valid = in_rows & in_columns
                if any_of(valid):
                    at = cy * width + cx
                    weight = tl.load(maps + (row % K * K + column % K) * pixels + at, mask=valid, other=0.0)
                    upstream = tl.load(gradient + rows + at[None, :], mask=exist & valid[None, :], other=0.0)
                    total += weight.to(tl.float32)[None, :] * upstream.to(tl.float32)
    stored = total.to(value_gradient.dtype.element_ty)
    tl.store(value_gradient + rows + (y * width + x)[None, :], stored, mask=exist & inside[None, :])


@triton.jit
def aggregation_backward_weights(
    gradient, values, weight_gradient, height, width,
    PER_MAP: tl.constexpr, K: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Multiply the gradient with the values under every tap and sum over the channels of a weight map."""
    image, y, x, inside = tile_of_program(height, width, BLOCK_H, BLOCK_W)
    pixels = height * width
    pixel = y * width + x
    maps = weight_gradient + (image * tl.num_programs(1) + tl.program_id(1)) * (K * K) * pixels
    for tap in range(K * K):
        under = under_tap(y, x, tap, height, width, K)
        total = tl.zeros([BLOCK_H * BLOCK_W], tl.float32)
        for first_of_chunk in range(0, PER_MAP, BLOCK_C):
            rows, exist = _channel_rows(image, first_of_chunk, pixels, PER_MAP, BLOCK_C)
            upstream = tl.load(gradient + rows + pixel[None, :], mask=exist, other=0.0).to(tl.float32)
            value = tl.load(values + rows + under[None, :], mask=exist, other=0.0).to(tl.float32)
            total += tl.sum(upstream * value, 0)
        tl.store(maps + tap * pixels + pixel, total.to(weight_gradient.dtype.element_ty), mask=inside)
