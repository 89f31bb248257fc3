"""Two models on the same images."""

import pytest
from scipy.stats import binomtest

from evaluation import ComparisonError, Plan, Side, compare
from evaluation.claims import Claim
from evaluation.compute.conditions import Row
from evaluation.statistics import holm, paired_difference
from tests.evaluation.reports.table import ATTACKED, CLEAN, PLAN, ROTATED, result, row

BETTER = [row(i, 1, 1, 1) for i in range(10)]
SIDE = Side(PLAN, "m", [result(0, CLEAN), result(1, ROTATED), result(2, ATTACKED)])


def side(**changes: object) -> Side:
    """The same with every image right, and another plan."""
    return Side(PLAN.model_copy(update=changes), "m", [result(index, BETTER) for index in range(3)])


@pytest.mark.parametrize(("first", "second"), [(0, 0), (5, 3), (3, 5), (10, 2), (40, 12), (0, 6)])
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    expected = binomtest(first, first + second).pvalue if first + second else 1
    assert paired_difference(20, first, second, 5).p == pytest.approx(expected)


def test_the_interval_is_near_the_normal_one() -> None:
    found = paired_difference(700, 120, 80, 100)
    assert found.difference == pytest.approx(0.04)
    half = 1.96 * (((120 + 80) / 1000 - 0.04**2) / 1000) ** 0.5
    assert (found.low, found.high) == pytest.approx((0.04 - half, 0.04 + half), abs=0.003)
    assert found == paired_difference(700, 120, 80, 100)


def test_impossible_tables_are_refused() -> None:
    for counts in ((0, 0, 0, 0), (1, -1, 0, 0)):
        with pytest.raises(ValueError, match="counts must be"):
            paired_difference(*counts)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1, 1]
    assert holm([]) == []


def test_ten_images_compared_by_hand() -> None:
    found = compare(SIDE, side())
    clean, rotated, attacked = found.conditions
    assert (clean.both, clean.only_first, clean.only_second, clean.neither) == (8, 0, 2, 0)
    assert clean.images_only_second == (8, 9)
    assert rotated.images_only_second == (2, 3, 4, 5, 6, 7, 8)
    assert attacked.images_only_second == (
        0,
        1,
        2,
        8,
        9,
    )  # 3 was not flipped within the budget; 8 and 9 were wrong before
    assert clean.difference == pytest.approx(-0.2)
    assert clean.p == pytest.approx(0.5)
    assert rotated.p == pytest.approx(2 / 2**7)
    assert rotated.p_holm == pytest.approx(3 * 2 / 2**7)
    assert found.first == f"m of {PLAN.id}"
    mirrored = compare(side(), SIDE).conditions[1]
    assert (mirrored.images_only_first, mirrored.p) == (rotated.images_only_second, rotated.p)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dataset_sha256": "f" * 64}, "data d (dddddddddddd) and d (ffffffffffff)"),
        ({"images": 9}, "number of images 10 and 9"),
        ({"spec": PLAN.spec.model_copy(update={"seed": 1})}, "seed 0 and 1"),
        ({"spec": PLAN.spec.model_copy(update={"precision": "bfloat16"})}, "precision float32 and bfloat16"),
        ({"spec": PLAN.spec.model_copy(update={"claim": Claim(claimed=0.5)})}, "images drawn evenly and at random"),
        ({"spec": PLAN.spec.model_copy(update={"models": ("other",)})}, "has no model 'm', it has other"),
        ({"images": 10, "spec": PLAN.spec.model_copy(update={"conditions": ()})}, "no condition is the same"),
    ],
)
def test_what_is_not_comparable_is_refused_with_the_reason(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ComparisonError) as refused:
        compare(SIDE, side(**changes))
    assert reason in str(refused.value)


def test_what_ended_early_is_compared_on_the_images_that_both_saw() -> None:
    spec = PLAN.spec.model_copy(update={"stop_width": 0.9})
    six, four = (PLAN.model_copy(update={"spec": spec, "shard_images": count}) for count in (6, 4))
    found = compare(
        Side(six, "m", [result(index, rows[:6]) for index, rows in enumerate((CLEAN, ROTATED, ATTACKED))]),
        Side(four, "m", [result(index, BETTER[:4]) for index in range(3)]),
    )
    assert [each.n for each in found.conditions] == [4, 4, 4]


def test_unfinished_is_not_compared() -> None:
    rows: list[Row] = CLEAN[:5]
    plan: Plan = PLAN.model_copy(update={"shard_images": 5})
    with pytest.raises(ComparisonError, match="5 of 10 images under clean: wait"):
        compare(Side(plan, "m", [result(0, rows)]), side())
