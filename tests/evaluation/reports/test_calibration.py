"""Calibration and abstention, against answers by hand, by loops, and of other libraries."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from evaluation.compute.conditions import Row
from evaluation.reports.calibration import BINS, calibrate
from tests.evaluation.reports.table import row


def rows(n: int, *, sharpened: float = 1.0) -> list[Row]:
    """A model that is right as often as its confidence says, before that is raised to a power."""
    draws = np.random.default_rng(1)
    right = draws.uniform(0.3, 1, n)
    told, before = right**sharpened, np.clip(right**sharpened + draws.normal(0.1, 0.1, n), 0.1, 1)
    is_right = draws.uniform(size=n) < right
    return [
        row(index, 1, 1, 1 if is_right[index] else 2, confidence=told[index], clean_confidence=before[index])
        for index in range(n)
    ]


def test_four_images_by_hand() -> None:
    confidences, before = (0.9, 0.8, 0.7, 0.6), (1.0, 0.8, 0.7, 0.5)
    right = (True, False, True, False)
    found = calibrate(
        row(index, 1, 1, 1 if right[index] else 2, confidence=confidences[index], clean_confidence=before[index])
        for index in (2, 0, 3, 1)
    )
    assert found is not None and found.auroc is not None
    assert [(each.confidence, each.accuracy) for each in found.bins] == [(0.6, 0), (0.7, 1), (0.8, 0), (0.9, 1)]
    assert found.calibration_error.value == pytest.approx((0.6 + 0.3 + 0.8 + 0.1) / 4)
    assert found.brier.value == pytest.approx((0.36 + 0.09 + 0.64 + 0.01) / 4)
    assert found.aurc.value == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    assert found.auroc.value == pytest.approx((4 + 2.5 + 1.5 + 0) / 16), "ties count half"


def test_the_auroc_is_that_of_mann_and_whitney_and_the_risk_that_of_a_loop() -> None:
    many = rows(200)
    found = calibrate(many)
    assert found is not None and found.auroc is not None
    before, after = [each.clean_confidence for each in many], [each.confidence for each in many]
    assert found.auroc.value == pytest.approx(mannwhitneyu(before, after).statistic / 200**2)
    wrong = [each.prediction != each.label for each in sorted(many, key=lambda each: -(each.confidence or 0))]
    assert found.aurc.value == pytest.approx(np.mean([sum(wrong[:k]) / k for k in range(1, 201)]))


def test_a_calibrated_model_has_little_error_and_one_that_is_too_sure_has_what_it_adds() -> None:
    calibrated, sure = (calibrate(rows(1500, sharpened=power)) for power in (1, 0.25))
    assert calibrated is not None and sure is not None
    assert len(calibrated.bins) == BINS and {each.n for each in calibrated.bins} == {100}
    assert calibrated.calibration_error.low < 0.01 and calibrated.calibration_error.value < 0.05
    told = [each.confidence or 0 for each in rows(1500, sharpened=0.25)]
    standard_error = 0.45 / 1500**0.5  # of a share near 0.7
    assert abs(sure.calibration_error.value - np.mean([each - each**4 for each in told])) < 3 * standard_error
    assert sure.calibration_error.high - sure.calibration_error.low == pytest.approx(3.9 * standard_error, rel=0.2)
    assert sure.aurc == calibrated.aurc, "the order of the images is the same"


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    truth = ((1 / 2 - 1 / 3) - (0.3**2 / 2 - 0.3**3 / 3)) / 0.7  # the mean of c (1 - c) for c between 0.3 and 1
    every = rows(4000)
    parts = [calibrate(every[start : start + 100]) for start in range(0, 4000, 100)]
    covered = [each is not None and each.brier.low <= truth <= each.brier.high for each in parts]
    assert sum(covered) >= 34, "of 40, where 38 are expected"


def test_without_confidences_nothing_is_measured() -> None:
    blank = row(0, 1, 1, 1).model_copy(update={"confidence": None})
    assert calibrate([blank]) is None
    one = calibrate([blank, row(1, 1, 1, 1, confidence=0.9, clean_confidence=0.9)])
    assert one is not None
    assert (one.n, one.auroc, one.calibration_error.value) == (1, None, pytest.approx(0.1))
