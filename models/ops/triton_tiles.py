# ruff: noqa: N803  (constants are capitals)
# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false, reportGeneralTypeIssues=false
"""What all Triton kernels of self-attention over a k x k neighbourhood share; `triton_ops` decides when they run and starts them.

A program computes one tile of pixels of one image. No kernel holds anything per tap in global memory, and none adds into memory
that another program writes: gradients of what lies under taps are gathered from the centres, through the mirror images of a pixel
near the border as well, so results do not depend on the order of programs. Sums are float32 whatever the type of the operands.

Arguments in capitals are compile-time constants: K is the footprint and BLOCK_H x BLOCK_W the tile, 16 pixels or more. Pixels
outside the map repeat the last one inside and are not stored.
"""

import triton
import triton.language as tl


@triton.jit
def tile_of_program(height, width, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, TAPS: tl.constexpr = 1):
    """Image of this program, rows and columns of its pixels, and whether they lie in the map; all pixels once for every tap."""
    across = tl.cdiv(width, BLOCK_W)
    tiles = tl.cdiv(height, BLOCK_H) * across
    tile = tl.program_id(0) % tiles
    lane = tl.arange(0, TAPS * BLOCK_H * BLOCK_W) % (BLOCK_H * BLOCK_W)
    y = tile // across * BLOCK_H + lane // BLOCK_W
    x = tile % across * BLOCK_W + lane % BLOCK_W
    inside = (y < height) & (x < width)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    return image, tl.minimum(y, height - 1), tl.minimum(x, width - 1), inside


@triton.jit
def _reflect(position, size):
    position = tl.abs(position)
    return tl.where(position < size, position, 2 * (size - 1) - position)


@triton.jit
def under_tap(y, x, tap, height, width, K: tl.constexpr):
    """Pixel under a tap."""
    row = _reflect(y + tap // K - K // 2, height)
    return row * width + _reflect(x + tap % K - K // 2, width)


@triton.jit
def any_of(condition):
    """Whether a condition holds in any lane."""
    return tl.max(condition.to(tl.int32), 0) > 0


@triton.jit
def centre_of(position, size, candidate, K: tl.constexpr):
    """One of the 3 * K centres along an axis that may have a position under a tap, or 0, and whether there is one.

    The first K see the position itself, the next K its reflection at the lower border, the last K that at the upper one; the tap is
    the candidate modulo K.
    """
    image = candidate // K
    last = size - 1
    mirrored = tl.where(image == 0, position, tl.where(image == 1, -position, 2 * last - position))
    at_border = ((image == 1) & (position == 0)) | ((image == 2) & (position == last))  # not reflected
    centre = mirrored - candidate % K + K // 2
    valid = (centre >= 0) & (centre < size) & (at_border == 0)
    return tl.where(valid, centre, 0), valid
