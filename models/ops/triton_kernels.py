# ruff: noqa: N803, N806, PLR0917, SIM108  (constants are capitals; the compiler takes if on a constant, but not as an expression)
# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false, reportGeneralTypeIssues=false
"""Triton kernels of self-attention over a k x k neighbourhood; `triton_ops` decides when they run and starts them.

A program computes one tile of pixels of one image. No kernel holds anything per tap in global memory, and none adds into memory
that another program writes: gradients of what lies under taps are gathered from the centres, through the mirror images of a pixel
near the border as well, so results do not depend on the order of programs. Sums are float32 whatever the type of the operands.

Arguments in capitals are compile-time constants: K is the footprint and BLOCK_H x BLOCK_W the tile, 16 pixels or more. Pixels
outside the map repeat the last one inside and are not stored.
"""

import triton
import triton.language as tl

CHUNK = tl.constexpr(32)
"""Hidden channels of the mapping that are computed at once where there are more. Matrices of this many stay in registers and shared
memory from tap to tap; larger ones, with the halves into which tf32x3 splits them, would fill both, and are loaded in parts."""


@triton.jit
def _tile(height, width, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr):
    """Image of this program, rows and columns of its pixels, and whether they lie in the map."""
    across = tl.cdiv(width, BLOCK_W)
    tiles = tl.cdiv(height, BLOCK_H) * across
    tile = tl.program_id(0) % tiles
    lane = tl.arange(0, BLOCK_H * BLOCK_W)
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
def _under_tap(y, x, tap, height, width, K: tl.constexpr):
    """Pixel under a tap."""
    row = _reflect(y + tap // K - K // 2, height)
    return row * width + _reflect(x + tap % K - K // 2, width)


@triton.jit
def _any(condition):
    return tl.max(condition.to(tl.int32), 0) > 0


@triton.jit
def _centre(position, size, candidate, K: tl.constexpr):
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


@triton.jit
def _border_class(position, size, K: tl.constexpr):
    return tl.maximum(tl.minimum(position, K // 2), position - tl.maximum(size - K, 0))


@triton.jit
def _table_row(y, x, tap, height, width, K: tl.constexpr):
    """Row of the table of positions for a centre and a tap."""
    row, column = _border_class(y, height, K), _border_class(x, width, K)
    return (tap * tl.minimum(height, K) + row) * tl.minimum(width, K) + column


@triton.jit
def _load_rows(pointer, rows, stride, COUNT: tl.constexpr, PADDED: tl.constexpr):
    """Rows of COUNT numbers as float32, with zeros behind them up to PADDED."""
    column = tl.arange(0, PADDED)
    pointers = pointer + rows[:, None] * stride + column[None, :]
    if COUNT == PADDED:
        loaded = tl.load(pointers)
    else:
        loaded = tl.load(pointers, mask=column[None, :] < COUNT, other=0.0)
    return loaded.to(tl.float32)


@triton.jit
def _store_rows(pointer, rows, values, inside, COUNT: tl.constexpr, PADDED: tl.constexpr):
    column = tl.arange(0, PADDED)
    mask = inside[:, None] & (column[None, :] < COUNT)
    tl.store(pointer + rows[:, None] * COUNT + column[None, :], values.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def _value_offsets(rows, stride, GROUPS: tl.constexpr, MAPS: tl.constexpr):
    channel = tl.arange(0, GROUPS)[:, None] * MAPS + tl.arange(0, MAPS)[None, :]
    return rows[:, None, None] * stride + channel[None, :, :]


@triton.jit
def _load_values(pointer, rows, stride, GROUPS: tl.constexpr, MAPS: tl.constexpr):
    """Values (pixels, GROUPS, MAPS) as float32; channel c uses map c modulo MAPS."""
    return tl.load(pointer + _value_offsets(rows, stride, GROUPS, MAPS)).to(tl.float32)


@triton.jit
def _load_matrix(pointer, ROWS: tl.constexpr, PADDED: tl.constexpr, COLUMNS: tl.constexpr, REPEATED: tl.constexpr):
    """A (ROWS, COLUMNS) matrix with zeros below and its columns repeated. Repeated columns of the first layer meet those zeros."""
    row, column = tl.arange(0, PADDED)[:, None], tl.arange(0, REPEATED)[None, :]
    return tl.load(pointer + row * COLUMNS + column % COLUMNS, mask=row < ROWS, other=0.0)


@triton.jit
def _load_block(pointer, start, ROWS: tl.constexpr, PADDED: tl.constexpr):
    """CHUNK columns, from `start`, of a (ROWS, ROWS) matrix, with zeros around it: (PADDED, CHUNK)."""
    row, column = tl.arange(0, PADDED)[:, None], start + tl.arange(0, CHUNK)[None, :]
    return tl.load(pointer + row * ROWS + column, mask=(row < ROWS) & (column < ROWS), other=0.0)


@triton.jit
def _load_block_of_rows(pointer, start, ROWS: tl.constexpr, COLUMNS: tl.constexpr, REPEATED: tl.constexpr):
    """CHUNK rows, from `start`, of a (ROWS, COLUMNS) matrix, with zeros below it and its columns repeated: (CHUNK, REPEATED)."""
    row, column = start + tl.arange(0, CHUNK)[:, None], tl.arange(0, REPEATED)[None, :]
    return tl.load(pointer + row * COLUMNS + column % COLUMNS, mask=row < ROWS, other=0.0)


@triton.jit
def _hidden(features, first, position, PRECISION: tl.constexpr):
    return tl.maximum(tl.dot(features.to(first.dtype), first, input_precision=PRECISION) + position, 0.0)


@triton.jit
def _hidden_chunk(
    features, first, table, row, start, RELATION: tl.constexpr, PADDED: tl.constexpr, PRECISION: tl.constexpr
):
    """CHUNK hidden channels of one tap, from `start`, and the columns of the first layer that give them."""
    column = start + tl.arange(0, CHUNK)
    position = tl.load(table + row[:, None] * RELATION + column[None, :], mask=column[None, :] < RELATION, other=0.0)
    columns = _load_block(first, start, RELATION, PADDED)
    return _hidden(features, columns, position.to(tl.float32), PRECISION), columns


@triton.jit
def _logits(
    features, first, second, w1, w2, table, row,
    RELATION: tl.constexpr, PADDED: tl.constexpr, DISTINCT: tl.constexpr, MAPS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Logits of one tap, from pointers to both layers and, where they are small, the layers themselves."""
    if PADDED <= CHUNK:
        hidden = _hidden(features, w1, _load_rows(table, row, RELATION, RELATION, PADDED), PRECISION)
        logits = tl.dot(hidden.to(w2.dtype), w2, input_precision=PRECISION)
    else:
        logits = tl.zeros([features.shape[0], MAPS], tl.float32)
        for start in range(0, PADDED, CHUNK):
            hidden, _ = _hidden_chunk(features, first, table, row, start, RELATION, PADDED, PRECISION)
            rows = _load_block_of_rows(second, start, RELATION, DISTINCT, MAPS)
            logits = tl.dot(hidden.to(rows.dtype), rows, logits, input_precision=PRECISION)
    return logits


@triton.jit
def _features_gradient(
    gradient, features, first, second, w1, w2, table, row,
    RELATION: tl.constexpr, PADDED: tl.constexpr, DISTINCT: tl.constexpr, MAPS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient to x1 from the gradient to the logits of one tap; the hidden layer is computed again."""
    if PADDED <= CHUNK:
        hidden = _hidden(features, w1, _load_rows(table, row, RELATION, RELATION, PADDED), PRECISION)
        collected = _through_layers(gradient, hidden, w1, w2, PRECISION)
    else:
        collected = tl.zeros([features.shape[0], PADDED], tl.float32)
        for start in range(0, PADDED, CHUNK):
            hidden, columns = _hidden_chunk(features, first, table, row, start, RELATION, PADDED, PRECISION)
            rows = _load_block_of_rows(second, start, RELATION, DISTINCT, MAPS)
            collected += _through_layers(gradient, hidden, columns, rows, PRECISION)
    return tl.where(features > 0, collected, 0.0)


@triton.jit
def _through_layers(gradient, hidden, first, second, PRECISION: tl.constexpr):
    gradient = tl.dot(gradient.to(second.dtype), tl.trans(second), input_precision=PRECISION)
    gradient = tl.where(hidden > 0, gradient, 0.0)
    return tl.dot(gradient.to(first.dtype), tl.trans(first), input_precision=PRECISION)


@triton.jit
def _small_matrices(
    first, second, RELATION: tl.constexpr, PADDED: tl.constexpr, DISTINCT: tl.constexpr, MAPS: tl.constexpr
):
    """Both layers where they are small, else a corner of each that nobody uses."""
    SIZE: tl.constexpr = min(PADDED, CHUNK)
    return (
        _load_matrix(first, RELATION, SIZE, RELATION, SIZE),
        _load_matrix(second, RELATION, SIZE, DISTINCT, MAPS),
    )


# The operands of the three pairwise kernels: x1, x2 and x3 (N, H, W, R or C), whose pixels lie stride numbers apart; `first`,
# (R, R), `second`, (R, D), and the table of `PairwiseWeights`; result and gradients, contiguous. R = RELATION is padded to PADDED.
# The D = DISTINCT maps are repeated up to MAPS, a power of two from 16 on: with C = GROUPS * MAPS, channel c uses map c modulo D
# either way.


@triton.jit
def pairwise_forward(
    x1, x2, x3, first, second, table, result, logsumexp, stride1, stride2, stride3, height, width,
    RELATION: tl.constexpr, PADDED: tl.constexpr, DISTINCT: tl.constexpr, MAPS: tl.constexpr, GROUPS: tl.constexpr,
    K: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend with a softmax that runs over the taps; also stores the logarithm of its denominator, (N, H * W, MAPS)."""
    image, y, x, inside = _tile(height, width, BLOCK_H, BLOCK_W)
    start = image * height * width
    pixel = y * width + x
    w1, w2 = _small_matrices(first, second, RELATION, PADDED, DISTINCT, MAPS)
    centre = _load_rows(x1 + start * stride1, pixel, stride1, RELATION, PADDED)
    largest = tl.full([BLOCK_H * BLOCK_W, MAPS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_H * BLOCK_W, MAPS], tl.float32)
    weighted = tl.zeros([BLOCK_H * BLOCK_W, GROUPS, MAPS], tl.float32)
    for tap in range(K * K):
        under = _under_tap(y, x, tap, height, width, K)
        neighbour = _load_rows(x2 + start * stride2, under, stride2, RELATION, PADDED)
        row = _table_row(y, x, tap, height, width, K)
        features = tl.maximum(centre - neighbour, 0.0)
        logits = _logits(features, first, second, w1, w2, table, row, RELATION, PADDED, DISTINCT, MAPS, PRECISION)
        values = _load_values(x3 + start * stride3, under, stride3, GROUPS, MAPS)
        larger = tl.maximum(largest, logits)
        shrink = tl.exp(largest - larger)
        weight = tl.exp(logits - larger)
        total = total * shrink + weight
        weighted = weighted * shrink[:, None, :] + weight[:, None, :] * values
        largest = larger
    weighted = (weighted / total[:, None, :]).to(result.dtype.element_ty)
    offsets = _value_offsets(pixel, GROUPS * MAPS, GROUPS, MAPS)
    tl.store(result + start * (GROUPS * MAPS) + offsets, weighted, mask=inside[:, None, None])
    _store_rows(logsumexp + start * MAPS, pixel, largest + tl.log(total), inside, MAPS, MAPS)


@triton.jit
def pairwise_backward_centres(
    gradient, result, x1, x2, x3, first, second, table, logsumexp, row_sums, gradient1, stride1, stride2, stride3, height, width,
    RELATION: tl.constexpr, PADDED: tl.constexpr, DISTINCT: tl.constexpr, MAPS: tl.constexpr, GROUPS: tl.constexpr,
    K: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient to x1, and the sums over channels of gradient * result, (N, H * W, MAPS), that the softmax subtracts."""
    image, y, x, inside = _tile(height, width, BLOCK_H, BLOCK_W)
    start = image * height * width
    pixel = y * width + x
    channels: tl.constexpr = GROUPS * MAPS
    w1, w2 = _small_matrices(first, second, RELATION, PADDED, DISTINCT, MAPS)
    centre = _load_rows(x1 + start * stride1, pixel, stride1, RELATION, PADDED)
    upstream = _load_values(gradient + start * channels, pixel, channels, GROUPS, MAPS)
    row_sum = tl.sum(upstream * _load_values(result + start * channels, pixel, channels, GROUPS, MAPS), 1)
    _store_rows(row_sums + start * MAPS, pixel, row_sum, inside, MAPS, MAPS)
    normaliser = _load_rows(logsumexp + start * MAPS, pixel, MAPS, MAPS, MAPS)
    collected = tl.zeros([BLOCK_H * BLOCK_W, PADDED], tl.float32)
    for tap in range(K * K):
        under = _under_tap(y, x, tap, height, width, K)
        neighbour = _load_rows(x2 + start * stride2, under, stride2, RELATION, PADDED)
        row = _table_row(y, x, tap, height, width, K)
        features = tl.maximum(centre - neighbour, 0.0)
        logits = _logits(features, first, second, w1, w2, table, row, RELATION, PADDED, DISTINCT, MAPS, PRECISION)
        values = _load_values(x3 + start * stride3, under, stride3, GROUPS, MAPS)
        to_logits = tl.exp(logits - normaliser) * (tl.sum(upstream * values, 1) - row_sum)
        collected += _features_gradient(
            to_logits, features, first, second, w1, w2, table, row, RELATION, PADDED, DISTINCT, MAPS, PRECISION
        )
    _store_rows(gradient1 + start * RELATION, pixel, collected, inside, RELATION, PADDED)


@triton.jit
def pairwise_backward_neighbours(
    gradient, x1, x2, x3, first, second, table, logsumexp, row_sums, gradient2, gradient3, stride1, stride2, stride3, height, width,
    RELATION: tl.constexpr, PADDED: tl.constexpr, DISTINCT: tl.constexpr, MAPS: tl.constexpr, GROUPS: tl.constexpr,
    K: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients to x2 and x3, gathered from all centres in whose footprints a pixel lies."""
    image, y, x, inside = _tile(height, width, BLOCK_H, BLOCK_W)
    start = image * height * width
    pixel = y * width + x
    channels: tl.constexpr = GROUPS * MAPS
    w1, w2 = _small_matrices(first, second, RELATION, PADDED, DISTINCT, MAPS)
    neighbour = _load_rows(x2 + start * stride2, pixel, stride2, RELATION, PADDED)
    values = _load_values(x3 + start * stride3, pixel, stride3, GROUPS, MAPS)
    collected = tl.zeros([BLOCK_H * BLOCK_W, PADDED], tl.float32)
    weighted = tl.zeros([BLOCK_H * BLOCK_W, GROUPS, MAPS], tl.float32)
    for row in range(3 * K):
        cy, in_rows = _centre(y, height, row, K)
        in_rows = in_rows & inside
        if _any(in_rows):
            for column in range(3 * K):
                cx, in_columns = _centre(x, width, column, K)
                valid = (in_rows & in_columns)[:, None]
                if _any(in_rows & in_columns):
                    at = cy * width + cx
                    tap = row % K * K + column % K
                    centre = _load_rows(x1 + start * stride1, at, stride1, RELATION, PADDED)
                    at_tap = _table_row(cy, cx, tap, height, width, K)
                    features = tl.maximum(centre - neighbour, 0.0)
                    logits = _logits(
                        features, first, second, w1, w2, table, at_tap, RELATION, PADDED, DISTINCT, MAPS, PRECISION
                    )
                    upstream = _load_values(gradient + start * channels, at, channels, GROUPS, MAPS)
                    normaliser = _load_rows(logsumexp + start * MAPS, at, MAPS, MAPS, MAPS)
                    row_sum = _load_rows(row_sums + start * MAPS, at, MAPS, MAPS, MAPS)
                    weight = tl.exp(tl.where(valid, logits - normaliser, float("-inf")))
                    weighted += weight[:, None, :] * upstream
                    to_logits = weight * (tl.sum(upstream * values, 1) - row_sum)
                    collected -= _features_gradient(
                        to_logits,
                        features,
                        first,
                        second,
                        w1,
                        w2,
                        table,
                        at_tap,
                        RELATION,
                        PADDED,
                        DISTINCT,
                        MAPS,
                        PRECISION,
                    )
    _store_rows(gradient2 + start * RELATION, pixel, collected, inside, RELATION, PADDED)
    offsets = _value_offsets(pixel, channels, GROUPS, MAPS)
    tl.store(
        gradient3 + start * channels + offsets, weighted.to(gradient3.dtype.element_ty), mask=inside[:, None, None]
    )


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
    image, y, x, inside = _tile(height, width, BLOCK_H, BLOCK_W)
    pixels = height * width
    pixel = y * width + x
    rows, exist = _channel_rows(image, tl.program_id(2) * BLOCK_C, pixels, PER_MAP, BLOCK_C)
    maps = weights + (image * tl.num_programs(1) + tl.program_id(1)) * (K * K) * pixels
    total = tl.zeros([BLOCK_C, BLOCK_H * BLOCK_W], tl.float32)
    for tap in range(K * K):
        weight = tl.load(maps + tap * pixels + pixel).to(tl.float32)
        under = _under_tap(y, x, tap, height, width, K)
        total += weight[None, :] * tl.load(values + rows + under[None, :], mask=exist, other=0.0).to(tl.float32)
    tl.store(result + rows + pixel[None, :], total.to(result.dtype.element_ty), mask=exist & inside[None, :])


@triton.jit
def aggregation_backward_values(
    gradient, weights, value_gradient, height, width,
    PER_MAP: tl.constexpr, K: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Gather the gradient to the values from all centres in whose footprints a pixel lies."""
    image, y, x, inside = _tile(height, width, BLOCK_H, BLOCK_W)
    pixels = height * width
    rows, exist = _channel_rows(image, tl.program_id(2) * BLOCK_C, pixels, PER_MAP, BLOCK_C)
    maps = weights + (image * tl.num_programs(1) + tl.program_id(1)) * (K * K) * pixels
    total = tl.zeros([BLOCK_C, BLOCK_H * BLOCK_W], tl.float32)
    for row in range(3 * K):
        cy, in_rows = _centre(y, height, row, K)
        in_rows = in_rows & inside
        if _any(in_rows):
            for column in range(3 * K):
                cx, in_columns = _centre(x, width, column, K)
                valid = in_rows & in_columns
                if _any(valid):
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
    image, y, x, inside = _tile(height, width, BLOCK_H, BLOCK_W)
    pixels = height * width
    pixel = y * width + x
    maps = weight_gradient + (image * tl.num_programs(1) + tl.program_id(1)) * (K * K) * pixels
    for tap in range(K * K):
        under = _under_tap(y, x, tap, height, width, K)
        total = tl.zeros([BLOCK_H * BLOCK_W], tl.float32)
        for first_of_chunk in range(0, PER_MAP, BLOCK_C):
            rows, exist = _channel_rows(image, first_of_chunk, pixels, PER_MAP, BLOCK_C)
            upstream = tl.load(gradient + rows + pixel[None, :], mask=exist, other=0.0).to(tl.float32)
            value = tl.load(values + rows + under[None, :], mask=exist, other=0.0).to(tl.float32)
            total += tl.sum(upstream * value, 0)
        tl.store(maps + tap * pixels + pixel, total.to(weight_gradient.dtype.element_ty), mask=inside)
