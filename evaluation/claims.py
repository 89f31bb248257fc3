"""Claims about a score, checked with as few images as will do."""

from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from common.validation import Frozen

Answer = Literal["holds", "does not hold", "cannot be told with so many images"]
"""What can be said of a claim."""


class Claim(Frozen):
    """That a model's score is so high on the whole data set: robust accuracy where something attacks, else accuracy."""

    claimed: Annotated[float, Field(ge=0, le=1, description="the score, a fraction")]
    tolerance: Annotated[
        float, Field(ge=0, lt=1, description="the claim still holds if the score is lower by less than this")
    ] = 0.01
    confidence: Annotated[
        float, Field(ge=0.5, lt=1, description="with which the answer is right, however often is looked")
    ] = 0.95

    @property
    def least(self) -> float:
        """The score from which on the claim holds."""
        return self.claimed - self.tolerance

    def answer(self, right: int, n: int, population: int) -> Answer:
        """Answer from what is known so far.

        Args:
            right: images that count for the score, of those that were looked at.
            n: images that were looked at, drawn at random.
            population: images of the data set.
        """
        low, high = bounds(right, n, population, self.confidence)
        if low >= self.least:
            return "holds"
        return "does not hold" if high < self.least else "cannot be told with so many images"


def bounds(right: int, n: int, population: int, confidence: float) -> tuple[float, float]:
    """Bound the score on a whole data set by the images looked at so far, drawn at random without replacement.

    The bounds hold for every n at once: whoever looks after each image and stops when it suits is wrong with a probability of at
    most 1 - confidence, which an interval for a fixed n does not give. Once all images were looked at, both are the score itself.
    Waudby-Smith and Ramdas 2020 (arXiv:2006.04347, Sec. 2): a number of right images in the data set is left out once the ratio of
    its prior and its posterior probability reaches 1 / (1 - confidence); the prior is uniform.

    Args:
        right: images that count for the score, of those that were looked at.
        n: images that were looked at.
        population: images of the data set.
        confidence: below 1.

    Returns:
        The lowest and the highest score that is possible, fractions.

    Raises:
        ValueError: the numbers do not fit together.
    """
    if not 0 <= right <= n <= population or not population:
        raise ValueError(f"expected 0 <= right <= n <= population, got {right}, {n} and {population}")
    log = _log_factorials(population)
    wrong = n - right
    possible = np.arange(right, population - wrong + 1)
    others = population - possible
    likelihood = log[possible] - log[possible - right] + log[others] - log[others - wrong]
    likelihood -= log[population] - log[population - n]
    average = log[right] + log[wrong] - log[n] - np.log(n + 1)
    left = possible[likelihood > average + np.log1p(-confidence)]
    return float(left[0]) / population, float(left[-1]) / population


class ClaimVerdict(Frozen):
    """What came of a claim about one model.

    Attributes:
        claim: what was claimed.
        answer: whether it holds.
        n: images that were looked at.
        right: of these, the ones that count for the score.
        population: images of the data set.
        low: the lowest score on all of them that is possible with the claim's confidence.
        high: the highest.
        differences: of the protocol from the usual one, and what speaks against the number.
    """

    claim: Claim
    answer: Answer
    n: int
    right: int
    population: int
    low: float
    high: float
    differences: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """One sentence with the answer and the numbers."""
        claim, points = self.claim, 100 * self.claim.tolerance
        tolerance = f"{points:g} point" + ("" if points == 1 else "s")
        return (
            f"claimed {100 * claim.claimed:.4g} %, tolerance {tolerance}: {self.answer}; {self.right:,} of {self.n:,} images are "
            f"right, so the score on all {self.population:,} is {100 * self.low:.2f} to {100 * self.high:.2f} % "
            f"({100 * claim.confidence:g} % confidence, whenever one stops)"
        )


@lru_cache(maxsize=4)
def _log_factorials(largest: int) -> NDArray[np.float64]:
    """Logarithms of 0!, 1!, ..., largest!."""
    return np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, largest + 1)))))
