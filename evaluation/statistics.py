"""Numbers with their intervals."""

import math

from pydantic import BaseModel, ConfigDict

Z_95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""


class Proportion(BaseModel):
    """A fraction of n with its 95 % Wilson score interval."""

    model_config = ConfigDict(frozen=True)

    value: float
    count: int
    n: int
    low: float
    high: float


def proportion(count: int, n: int) -> Proportion | None:
    """Compute count / n with its interval (Wilson 1927); None when n is 0.

    Raises:
        ValueError: count is not between 0 and n.
    """
    if not 0 <= count <= n:
        raise ValueError(f"count must lie between 0 and n, got {count} of {n}")
    if n == 0:
        return None
    p, z2 = count / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
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
