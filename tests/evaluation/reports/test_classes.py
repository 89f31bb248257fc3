"""Scores and differences class by class, counted by hand."""

import pytest

from evaluation.reports.classes import NOT_FINITE, ClassResult, compare_classes, logit_names, score_classes
from evaluation.statistics import share
from tests.evaluation.reports.table import PLAN, SPEC, row

NAMES = ["shoe", "shirt", "bag"]
ROWS = [
    *(row(index, 0, 0, 0) for index in (0, 1)),
    row(2, 1, 1, 2, flipped_by="pgd"),
    row(3, 1, 1, 2, flipped_by="pgd"),
    row(4, 1, 0, 1),
    row(5, 1, 1, 1),
    row(6, 2, 2, 2).model_copy(update={"prediction": None}),
]


def test_the_lowest_class_comes_first_with_what_it_is_taken_for() -> None:
    assert score_classes(NAMES, SPEC.conditions[2], ROWS) == [
        ClassResult(
            name="shirt", clean_accuracy=share(3, 4), score=share(1, 4), taken_for={"bag": 2, "shirt": 2}
        ),  # one is right under the attack that was wrong before: that does not count
        ClassResult(name="bag", clean_accuracy=share(1, 1), score=share(1, 1), taken_for={NOT_FINITE: 1}),
        ClassResult(name="shoe", clean_accuracy=share(2, 2), score=share(2, 2), taken_for={"shoe": 2}),
    ]
    rotated = {each.name: each.score.count for each in score_classes(NAMES, SPEC.conditions[1], ROWS)}
    assert rotated == {"bag": 0, "shirt": 2, "shoe": 2}


def test_predictions_are_named_among_the_logits_that_are_looked_at() -> None:
    match = PLAN.matches["m"].model_copy(update={"logits": (7, 2), "model_classes": 10})
    plan = PLAN.model_copy(update={"matches": {"m": match}})
    classes = [f"c{index}" for index in range(10)]
    assert logit_names(plan, "m", classes) == classes
    among = plan.model_copy(update={"spec": plan.spec.model_copy(update={"logits": "dataset"})})
    assert logit_names(among, "m", classes) == ["c2", "c7"]
    assert logit_names(among, "m", []) == ["class 2", "class 7"]


def test_classes_that_differ_are_listed_with_p_values_for_their_number() -> None:
    rows = [row(index, index % 2, 0, 0) for index in range(20)]
    right = {index: (index % 2 == 0, index == 1) for index in range(20)}
    first, second = compare_classes(["even", "odd"], rows, right)
    assert (first.name, first.n, first.difference) == ("even", 10, 1.0)
    assert first.p_holm == pytest.approx(2 * 2 * 0.5**10)
    assert (second.name, second.n, second.difference, second.p_holm) == ("odd", 10, -0.1, 1.0)
    assert compare_classes(["even", "odd"], rows, dict.fromkeys(range(20), (True, True))) == []
    assert [each.n for each in compare_classes(["even", "odd"], rows, {0: (True, False)})] == [1]
