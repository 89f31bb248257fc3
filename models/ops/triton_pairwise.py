# ruff: noqa: N803, N806, PLR0917, SIM108  (constants are capitals; the compiler takes if on a constant, but not as an expression)
# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false, reportGeneralTypeIssues=false
"""Triton kernels of pairwise attention, from folded operands to the aggregated values and back; see `triton_tiles`."""

import triton
import triton.language as tl

from models.ops.triton_tiles import any_of, centre_of, tile_of_program, under_tap

CHUNK = tl.constexpr(32)
"""Hidden channels of the mapping that are computed at once where there are more. Matrices of this many stay in registers and shared
memory from tap to tap; larger ones, with the halves into which tf32x3 splits them, would fill both, and are loaded in parts."""


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


@triton.jit
def _tap_of_lane(first, PIXELS: tl.constexpr, TAPS: tl.constexpr):
    """TAPS numbers from `first` on, each for all pixels; where there is one, that number."""
    tap = first
    if TAPS > 1:
        tap = first + tl.arange(0, TAPS * PIXELS) // PIXELS
    return tap


@triton.jit
def _for_taps(x, TAPS: tl.constexpr):
    """Repeat (P, M) for every tap: (TAPS * P, M)."""
    if TAPS > 1:
        x = tl.reshape(tl.broadcast_to(x[None, :, :], [TAPS, x.shape[0], x.shape[1]]), [TAPS * x.shape[0], x.shape[1]])
    return x


@triton.jit
def _largest_of_taps(x, TAPS: tl.constexpr):
    """(TAPS * P, M) -> (P, M)."""
    if TAPS > 1:
        x = tl.max(tl.reshape(x, [TAPS, x.shape[0] // TAPS, x.shape[1]]), 0)
    return x


@triton.jit
def _sum_of_taps(x, TAPS: tl.constexpr):
    """(TAPS * P, M) -> (P, M)."""
    if TAPS > 1:
        x = tl.sum(tl.reshape(x, [TAPS, x.shape[0] // TAPS, x.shape[1]]), 0)
    return x


@triton.jit
def _weighted_values(weights, values, TAPS: tl.constexpr):
    """Weights (TAPS * P, M) times values (TAPS * P, G, M), summed over taps: (P, G, M)."""
    x = weights[:, None, :] * values
    if TAPS > 1:
        x = tl.sum(tl.reshape(x, [TAPS, x.shape[0] // TAPS, x.shape[1], x.shape[2]]), 0)
    return x


@triton.jit
def _value_products(under, values, TAPS: tl.constexpr):
    """Values under taps (TAPS * P, G, M) times those of pixels (P, G, M), summed over groups: (TAPS * P, M)."""
    if TAPS > 1:
        under = tl.reshape(under, [TAPS, under.shape[0] // TAPS, under.shape[1], under.shape[2]])
        x = tl.reshape(tl.sum(under * values[None, :, :, :], 2), [TAPS * values.shape[0], values.shape[2]])
    else:
        x = tl.sum(under * values, 1)
    return x


# The operands of the three pairwise kernels: x1, x2 and x3 (N, H, W, R or C), whose pixels lie stride numbers apart; `first`,
# (R, R), `second`, (R, D), and the table of `PairwiseWeights`; result and gradients, contiguous. R = RELATION is padded to PADDED.
# The D = DISTINCT maps are repeated up to MAPS, a power of two from 16 on: with C = GROUPS * MAPS, channel c uses map c modulo D
# either way.
#
# TAPS taps are computed at once: the pixels of the tile, one tap after the other, are the rows of one matrix. So products fill the
# tensor cores and a layer is read once for all of them, while sums are held for the tile alone. What lies around the tile is read
# from global memory, which is to say from the cache, at every tap: Triton cannot index shared memory, and `tl.gather` would write
# its whole source there for every tap.


@triton.jit
def pairwise_forward(
    x1, x2, x3, first, second, table, result, logsumexp, stride1, stride2, stride3, height, width,
    RELATION: tl.constexpr, PADDED: tl.constexpr, DISTINCT: tl.constexpr, MAPS: tl.constexpr, GROUPS: tl.constexpr,
    K: tl.constexpr, PRECISION: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """Attend with a softmax that runs over the taps; also stores the logarithm of its denominator, (N, H * W, MAPS)."""
    image, y, x, inside = tile_of_program(height, width, BLOCK_H, BLOCK_W)
    _, lane_y, lane_x, _ = tile_of_program(height, width, BLOCK_H, BLOCK_W, TAPS)
    start = image * height * width
    pixel = y * width + x
    w1, w2 = _small_matrices(first, second, RELATION, PADDED, DISTINCT, MAPS)
    centre = _for_taps(_load_rows(x1 + start * stride1, pixel, stride1, RELATION, PADDED), TAPS)
    largest = tl.full([BLOCK_H * BLOCK_W, MAPS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_H * BLOCK_W, MAPS], tl.float32)
    weighted = tl.zeros([BLOCK_H * BLOCK_W, GROUPS, MAPS], tl.float32)
    for first_tap in range(0, K * K, TAPS):
        tap = _tap_of_lane(first_tap, BLOCK_H * BLOCK_W, TAPS)
        known = tl.minimum(tap, K * K - 1)
        under = under_tap(lane_y, lane_x, known, height, width, K)
        neighbour = _load_rows(x2 + start * stride2, under, stride2, RELATION, PADDED)
        row = _table_row(lane_y, lane_x, known, height, width, K)
        features = tl.maximum(centre - neighbour, 0.0)
        logits = _logits(features, first, second, w1, w2, table, row, RELATION, PADDED, DISTINCT, MAPS, PRECISION)
        if K * K % TAPS != 0:
            logits = tl.where((tap < K * K)[:, None], logits, float("-inf"))
        values = _load_values(x3 + start * stride3, under, stride3, GROUPS, MAPS)
        larger = tl.maximum(largest, _largest_of_taps(logits, TAPS))
        shrink = tl.exp(largest - larger)
        weight = tl.exp(logits - _for_taps(larger, TAPS))
        total = total * shrink + _sum_of_taps(weight, TAPS)
        weighted = weighted * shrink[:, None, :] + _weighted_values(weight, values, TAPS)
        largest = larger
    weighted = (weighted / total[:, None, :]).to(result.dtype.element_ty)
    offsets = _value_offsets(pixel, GROUPS * MAPS, GROUPS, MAPS)
    tl.store(result + start * (GROUPS * MAPS) + offsets, weighted, mask=inside[:, None, None])
    _store_rows(logsumexp + start * MAPS, pixel, largest + tl.log(total), inside, MAPS, MAPS)


@triton.jit
def pairwise_backward_centres(
    gradient, result, x1, x2, x3, first, second, table, logsumexp, row_sums, gradient1, stride1, stride2, stride3, height, width,
    RELATION: tl.constexpr, PADDED: tl.constexpr, DISTINCT: tl.constexpr, MAPS: tl.constexpr, GROUPS: tl.constexpr,
    K: tl.constexpr, PRECISION: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """Gradient to x1, and the sums over channels of gradient * result, (N, H * W, MAPS), that the softmax subtracts."""
    image, y, x, inside = tile_of_program(height, width, BLOCK_H, BLOCK_W)
    _, lane_y, lane_x, _ = tile_of_program(height, width, BLOCK_H, BLOCK_W, TAPS)
    start = image * height * width
    pixel = y * width + x
    channels: tl.constexpr = GROUPS * MAPS
    w1, w2 = _small_matrices(first, second, RELATION, PADDED, DISTINCT, MAPS)
    centre = _for_taps(_load_rows(x1 + start * stride1, pixel, stride1, RELATION, PADDED), TAPS)
    upstream = _load_values(gradient + start * channels, pixel, channels, GROUPS, MAPS)
    row_sum = tl.sum(upstream * _load_values(result + start * channels, pixel, channels, GROUPS, MAPS), 1)
    _store_rows(row_sums + start * MAPS, pixel, row_sum, inside, MAPS, MAPS)
    lane_sum = _for_taps(row_sum, TAPS)
    normaliser = _for_taps(_load_rows(logsumexp + start * MAPS, pixel, MAPS, MAPS, MAPS), TAPS)
    collected = tl.zeros([BLOCK_H * BLOCK_W, PADDED], tl.float32)
    for first_tap in range(0, K * K, TAPS):
        tap = _tap_of_lane(first_tap, BLOCK_H * BLOCK_W, TAPS)
        known = tl.minimum(tap, K * K - 1)
        under = under_tap(lane_y, lane_x, known, height, width, K)
        neighbour = _load_rows(x2 + start * stride2, under, stride2, RELATION, PADDED)
        row = _table_row(lane_y, lane_x, known, height, width, K)
        features = tl.maximum(centre - neighbour, 0.0)
        logits = _logits(features, first, second, w1, w2, table, row, RELATION, PADDED, DISTINCT, MAPS, PRECISION)
        if K * K % TAPS != 0:
            logits = tl.where((tap < K * K)[:, None], logits, float("-inf"))
        values = _load_values(x3 + start * stride3, under, stride3, GROUPS, MAPS)
        to_logits = tl.exp(logits - normaliser) * (_value_products(values, upstream, TAPS) - lane_sum)
        collected += _sum_of_taps(
            _features_gradient(
                to_logits, features, first, second, w1, w2, table, row, RELATION, PADDED, DISTINCT, MAPS, PRECISION
            ),
            TAPS,
        )
    _store_rows(gradient1 + start * RELATION, pixel, collected, inside, RELATION, PADDED)


@triton.jit
def pairwise_backward_neighbours(
    gradient, x1, x2, x3, first, second, table, logsumexp, row_sums, gradient2, gradient3, stride1, stride2, stride3, height, width,
    RELATION: tl.constexpr, PADDED: tl.constexpr, DISTINCT: tl.constexpr, MAPS: tl.constexpr, GROUPS: tl.constexpr,
    K: tl.constexpr, PRECISION: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """Gradients to x2 and x3, gathered from all centres in whose footprints a pixel lies."""
    image, y, x, inside = tile_of_program(height, width, BLOCK_H, BLOCK_W)
    _, lane_y, lane_x, lane_inside = tile_of_program(height, width, BLOCK_H, BLOCK_W, TAPS)
    start = image * height * width
    pixel = y * width + x
    channels: tl.constexpr = GROUPS * MAPS
    w1, w2 = _small_matrices(first, second, RELATION, PADDED, DISTINCT, MAPS)
    neighbour = _for_taps(_load_rows(x2 + start * stride2, pixel, stride2, RELATION, PADDED), TAPS)
    values = _load_values(x3 + start * stride3, pixel, stride3, GROUPS, MAPS)
    collected = tl.zeros([BLOCK_H * BLOCK_W, PADDED], tl.float32)
    weighted = tl.zeros([BLOCK_H * BLOCK_W, GROUPS, MAPS], tl.float32)
    for row in range(3 * K):
        cy, in_rows = centre_of(lane_y, height, row, K)
        in_rows = in_rows & lane_inside
        if any_of(in_rows):
            for first_column in range(0, 3 * K, TAPS):
                column = _tap_of_lane(first_column, BLOCK_H * BLOCK_W, TAPS)
                cx, in_columns = centre_of(lane_x, width, column, K)
                valid = in_rows & in_columns & (column < 3 * K)
                if any_of(valid):
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
                    weight = tl.exp(tl.where(valid[:, None], logits - normaliser, float("-inf")))
                    weighted += _weighted_values(weight, upstream, TAPS)
                    to_logits = weight * (_value_products(upstream, values, TAPS) - row_sum)
                    to_features = _features_gradient(
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
                    collected -= _sum_of_taps(to_features, TAPS)
    _store_rows(gradient2 + start * RELATION, pixel, collected, inside, RELATION, PADDED)
    offsets = _value_offsets(pixel, channels, GROUPS, MAPS)
    tl.store(
        gradient3 + start * channels + offsets, weighted.to(gradient3.dtype.element_ty), mask=inside[:, None, None]
    )
