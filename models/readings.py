"""The maps of one attention layer, as its family reads them from the layer's input and output."""

from dataclasses import dataclass

from torch import Tensor

Place = tuple[float, float]
"""A place in the image the network sees, as fractions (y, x): (0, 0) is the upper left corner, (1, 1) the lower right."""


@dataclass(frozen=True)
class Reading:
    """A layer's maps before they are divided by their maxima.

    Attributes:
        kind: what a map shows, in words.
        maps: (N, M, H, W), not negative; cell (i, j) covers that part of the image.
        points: (N, M, P, 2), where keys were sampled, as fractions (y, x) of the image; None if each key is a cell.
        scores: (N, M, P), the softmax scores of these points.
    """

    kind: str
    maps: Tensor
    points: Tensor | None = None
    scores: Tensor | None = None


def cell(query: Place, height: int, width: int) -> tuple[int, int]:
    """Find the cell of a map under a place in the image."""
    y, x = query
    return min(int(y * height), height - 1), min(int(x * width), width - 1)


def of_query(weights: Tensor, query: Place | None, size: list[int]) -> tuple[str, Tensor]:
    """Take the weights of one query, or the mean over all queries, and describe them in words.

    Args:
        weights: (N, heads, queries, keys), the queries row by row.
        query: the place of the query; None for the mean.
        size: height and width of the map of queries.

    Returns:
        Words that complete "attention that ... to each position", and the weights (N, heads, keys).
    """
    if query is None:
        return "all queries pay on average", weights.mean(2)
    y, x = cell(query, *size)
    return "the query pays", weights[:, :, y * size[1] + x]
