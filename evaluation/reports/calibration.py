"""How far confidences can be trusted under a condition: calibration, and abstention by confidence.

Everything is counted from the largest softmax value of each image, which is what rows have: scores are of the predicted class.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from common.validation import Frozen
from evaluation.compute.conditions import Row

BINS = 15
"""Bins of the calibration error, of about as many images each (equal mass, Nixon et al. 2019)."""

RESAMPLES = 1000
"""Draws of the bootstrap."""

AT_ONCE = 50
"""Draws that are held in memory together."""

Floats = NDArray[np.float64]

Statistic = Callable[[Floats], Floats]
"""Measures draws (R, N), which say how often each of N images was drawn; returns (R,)."""


class Measure(Frozen):
    """A number in [0, 1] with its 95 % interval: the basic one of the bootstrap (Davison & Hinkley 1997) over the images.

    It takes off what resampling adds, which is much for a calibration error near 0.
    """

    value: float
    low: float
    high: float


class Bin(Frozen):
    """Images of about the same confidence.

    Attributes:
        n: their number.
        confidence: mean, in [0, 1].
        accuracy: share of them that is right.
    """

    n: int
    confidence: float
    accuracy: float


class Calibration(Frozen):
    """How far the confidences of one model under one condition can be trusted.

    Attributes:
        n: images with a finite confidence.
        bins: of the reliability diagram, the lowest confidence first.
        calibration_error: expected calibration error (ECE, Naeini et al. 2015; Guo et al. 2017) over these bins.
        brier: mean square of confidence minus right (1) or wrong (0), of the predicted class alone (Brier 1950).
        aurc: area under the risk-coverage curve (Geifman & El-Yaniv 2017): mean share of errors among the k most confident images,
            over all k.
        auroc: probability that an image as it is has a larger confidence than a changed one, ties counting half; 0.5 is chance.
            None where nothing is changed.
    """

    n: int
    bins: tuple[Bin, ...]
    calibration_error: Measure
    brier: Measure
    aurc: Measure
    auroc: Measure | None


def calibrate(rows: Iterable[Row]) -> Calibration | None:
    """Measure the confidences of a model under a condition; None if none is finite."""
    found = [
        (row.confidence, row.prediction == row.label, row.clean_confidence)
        for row in rows
        if row.confidence is not None and row.clean_confidence is not None
    ]
    if not found:
        return None
    found.sort(key=lambda each: each[0], reverse=True)
    confidence, right, before = (np.array(column, dtype=np.float64) for column in zip(*found, strict=True))
    starts = np.unique(np.linspace(0, len(found), min(BINS, len(found)) + 1).astype(int)[:-1])
    statistics: list[Statistic] = [
        lambda drawn: _calibration_errors(drawn, confidence, right, starts),
        lambda drawn: drawn @ (confidence - right) ** 2 / len(found),
        lambda drawn: _risks(drawn, 1 - right),
    ]
    if not np.array_equal(before, confidence):
        statistics.append(_Ranks(before, confidence).auroc)
    calibration_error, brier, aurc, *auroc = _measures(len(found), statistics)
    return Calibration(
        n=len(found),
        bins=tuple(reversed(_bins(confidence, right, starts))),
        calibration_error=calibration_error,
        brier=brier,
        aurc=aurc,
        auroc=auroc[0] if auroc else None,
    )


def _bins(confidence: Floats, right: Floats, starts: NDArray[np.int_]) -> list[Bin]:
    groups = zip(np.split(confidence, starts[1:]), np.split(right, starts[1:]), strict=True)
    return [Bin(n=len(each), confidence=each.mean(), accuracy=hits.mean()) for each, hits in groups]


def _measures(n: int, statistics: Sequence[Statistic]) -> list[Measure]:
    """Measure n images, and resamples of them."""
    generator = np.random.default_rng(0)
    found = [[measure(np.ones((1, n))) for measure in statistics]]
    for _ in range(RESAMPLES // AT_ONCE):
        drawn = _drawn(generator, n)
        found.append([measure(drawn) for measure in statistics])
    return [_measured(*np.split(np.concatenate(each), [1])) for each in zip(*found, strict=True)]


def _measured(values: Floats, resampled: Floats) -> Measure:
    value, (low, high) = float(values[0]), np.quantile(resampled, (0.025, 0.975))
    return Measure(value=value, low=min(max(0.0, 2 * value - high), value), high=max(min(1.0, 2 * value - low), value))


def _drawn(generator: np.random.Generator, n: int) -> Floats:
    """Draw n images with replacement, `AT_ONCE` times; returns how often each was drawn (`AT_ONCE`, n)."""
    draws = generator.integers(n, size=(AT_ONCE, n))
    return np.stack([np.bincount(each, minlength=n) for each in draws]).astype(np.float64)


def _calibration_errors(drawn: Floats, confidence: Floats, right: Floats, starts: NDArray[np.int_]) -> Floats:
    """Measure the expected calibration error of each draw (R, N), in the bins of all images."""
    gaps = np.add.reduceat(drawn * (confidence - right), starts, axis=1)
    return np.abs(gaps).sum(1) / drawn.sum(1)


def _risks(drawn: Floats, wrong: Floats) -> Floats:
    """Measure the area under the risk-coverage curve of each draw (R, N) of images in the order of their confidence."""
    covered = np.maximum(np.cumsum(drawn, axis=1), 1)
    return (drawn * np.cumsum(drawn * wrong, axis=1) / covered).sum(1) / drawn.sum(1)


class _Ranks:
    """Images as they are and changed, merged in the order of their confidences.

    Args:
        before: confidences of the N images as they are.
        after: of the same images, changed.
    """

    def __init__(self, before: Floats, after: Floats) -> None:
        values, self._place = np.unique(np.concatenate([before, after]), return_inverse=True)
        self._n, self._values = len(before), len(values)

    def auroc(self, drawn: Floats) -> Floats:
        """Measure the area under the curve of each draw (R, N)."""
        return np.array([self._auroc(each) for each in drawn])

    def _auroc(self, weights: Floats) -> float:
        clean, changed = (
            np.bincount(place, weights, minlength=self._values)
            for place in (self._place[: self._n], self._place[self._n :])
        )
        below = np.cumsum(changed) - changed
        return float((clean * (below + changed / 2)).sum() / weights.sum() ** 2)
