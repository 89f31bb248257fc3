"""Numbers with their intervals."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

Z_95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""


class Proportion(BaseModel):
    """A fraction of n with its 95 % interval, by `share` or `share_of_passes`.

    Attributes:
        value: count / n.
        count: images, or the sum of their shares of passes.
        n: images.
        low: lower end of the interval.
        high: upper end.
    """

    model_config = ConfigDict(frozen=True)

    value: float
    count: int | float
    n: int
    low: float
    high: float


def proportion(count: int, n: int) -> Proportion | None:
    """Compute count / n with its interval, as `share` does; None when n is 0."""
    return share(count, n) if count or n else None


def share(count: int, n: int) -> Proportion:
    """Compute count / n with its interval (Wilson 1927).

    Raises:
        ValueError: n is not above 0, or count is not between 0 and n.
    """
    if n <= 0 or not 0 <= count <= n:
        raise ValueError(f"count must lie between 0 and n, got {count} of {n}; n must be above 0")
    p = count / n
    return _wilson(count, n, variance=p * (1 - p))


def share_of_passes(images: Mapping[int, int], passes: int) -> Proportion | None:
    """Estimate the mean over images of the share of right passes.

    Images are drawn, and passes within them: shares of passes of one image do not vary independently, so that an interval over all
    passes would be too narrow. This one is Wilson's with the variance between the images' shares, which contains the chance within
    them, in place of p (1 - p), which is the largest that it can be. If every image is right in all passes or in none, it is
    Wilson's interval itself.

    Args:
        images: how many have each number of right passes.
        passes: of each image.

    Returns:
        None without images.
    """
    n = sum(images.values())
    if not n:
        return None
    count = sum(right * each for right, each in images.items()) / passes
    squares = sum((right / passes) ** 2 * each for right, each in images.items()) / n
    return _wilson(count, n, variance=max(0.0, squares - (count / n) ** 2))


def _wilson(count: float, n: int, *, variance: float) -> Proportion:
    p, z2 = count / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(variance / n + z2 / (4 * n * n))
    low = 0.0 if count == 0 else centre - half
    high = 1.0 if count == n else centre + half
    return Proportion(value=p, count=count, n=n, low=low, high=high)


def binomial_below(count: int, n: int, claimed: float) -> float:
    """Probability of at most `count` of n where each has the probability `claimed`: the p value of "it is less than that"."""
    if not 0 < claimed < 1:
        return 1.0 if count >= claimed * n else 0.0
    log_choose = (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(count + 1))
    terms = (
        math.exp(each + k * math.log(claimed) + (n - k) * math.log1p(-claimed)) for k, each in enumerate(log_choose)
    )
    return min(1.0, math.fsum(terms))


RESAMPLES = 10_000
"""Draws of a bootstrap."""


class PairedDifference(BaseModel):
    """Two classifiers on the same n images.

    Attributes:
        n: images.
        both: right for both.
        only_first: right for the first alone.
        only_second: right for the second alone.
        neither: wrong for both.
        difference: accuracy of the first minus that of the second.
        low: lower end of its 95 % interval, the percentiles of 10,000 resamples of the image pairs (Efron 1979); without a
            disagreement, the exact limits of Clopper and Pearson 1934 for the share of images that only one gets right.
        high: upper end.
        p: of `mcnemar`.
    """

    model_config = ConfigDict(frozen=True)

    n: int
    both: int
    only_first: int
    only_second: int
    neither: int
    difference: float
    low: float
    high: float
    p: float


def paired_difference(both: int, only_first: int, only_second: int, neither: int) -> PairedDifference:
    """Test and estimate the difference between two classifiers from their table of agreement.

    Raises:
        ValueError: a count is negative, or all are 0.
    """
    counts = (both, only_first, only_second, neither)
    if min(counts) < 0 or not (n := sum(counts)):
        raise ValueError(f"counts must be at least 0, and one of them above, got {counts}")
    # Resampling the pairs draws the cells of the table from a multinomial.
    shares = np.array([only_first, only_second, both + neither]) / n
    drawn = np.random.default_rng(0).multinomial(n, shares, RESAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, (0.025, 0.975))
    if only_first == only_second == 0:  # nothing to resample: by the exact limit of a share of which none was seen
        high = 1 - 0.025 ** (1 / n)
        low = -high
    return PairedDifference(
        n=n,
        both=both,
        only_first=only_first,
        only_second=only_second,
        neither=neither,
        difference=(only_first - only_second) / n,
        low=float(low),
        high=float(high),
        p=mcnemar(only_first, only_second),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Compute the p value of the exact two-sided test (McNemar 1947): of disagreements as uneven, or more, if neither is better."""
    return min(1.0, 2 * binomial_below(min(only_first, only_second), only_first + only_second, 0.5))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number (Holm 1979): each is the level at which its hypothesis is rejected among all."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = largest
    return adjusted
