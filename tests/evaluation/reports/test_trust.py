"""Checks of the numbers against each other."""

from collections.abc import Sequence

import pytest

from evaluation import EvaluationSpec
from evaluation.compute.checks import Check, grade
from evaluation.compute.conditions import Row
from evaluation.reports.trust import claim_check, condition_checks, cross_checks, curve, median_minimal_eps
from evaluation.results.tally import Tally
from evaluation.spec import AdversarialCondition, CleanCondition, Condition
from evaluation.statistics import Proportion, binomial_below, proportion
from tests.evaluation.reports.table import PLAN, SPEC, result, row


def total(rows: list[Row], condition: Condition | None = None) -> Tally:
    plan = PLAN.model_copy(update={"spec": SPEC.model_copy(update={"conditions": (condition or CleanCondition(),)})})
    return Tally.of(plan, result(0, rows))


def pgd(eps: float = 0.1, steps: int = 10, restarts: int = 1) -> Condition:
    attack = {"name": "pgd", "parameters": {"steps": steps}, "restarts": restarts}
    return AdversarialCondition.model_validate({"threat": {"norm": "Linf", "eps": eps}, "attacks": [attack]})


def crossed(*pairs: tuple[Condition, int]) -> list[Check]:
    """Checks of conditions with their robust counts, of 100."""
    spec = EvaluationSpec(models=("m",), dataset="d", conditions=tuple(condition for condition, _ in pairs))
    scores: Sequence[Proportion | None] = [proportion(count, 100) for _, count in pairs]
    return list(cross_checks(spec, scores))


@pytest.mark.parametrize(("small", "large", "failed"), [(50, 40, False), (50, 55, False), (50, 70, True)])
def test_a_larger_ball_must_fell_more(small: int, large: int, failed: bool) -> None:
    (check,) = crossed((pgd(0.1), small), (pgd(0.2), large))
    assert (check.failed, check.means) == (failed, "invalid")
    assert "at 0.1 to" in check.message


@pytest.mark.parametrize(("few", "many", "failed"), [(50, 48, False), (50, 52, False), (50, 30, True)])
def test_more_steps_must_not_change_the_result(few: int, many: int, failed: bool) -> None:
    (check,) = crossed((pgd(steps=100), many), (pgd(steps=10), few))
    assert (check.failed, check.means) == (failed, "suspicious")
    assert check.message.startswith("0.500 stand with steps = 10, ")


@pytest.mark.parametrize(("few", "many", "failed"), [(50, 48, False), (50, 30, True)])
def test_more_restarts_must_not_change_the_result(few: int, many: int, failed: bool) -> None:
    (check,) = crossed((pgd(restarts=10), many), (pgd(restarts=1), few))
    assert (check.name, check.failed, check.means) == ("more restarts change nothing", failed, "suspicious")
    assert check.message.startswith(f"0.500 stand with restarts = 1, 0.{many}0 with restarts = 10")


def test_only_the_largest_number_of_steps_must_be_enough() -> None:
    (check,) = crossed((pgd(steps=100), 20), (pgd(steps=1), 90), (pgd(steps=50), 21), (pgd(steps=5), 50))
    assert not check.failed
    assert check.message.startswith("0.210 stand with steps = 50, 0.200 with steps = 100")


def test_what_differs_in_more_than_one_number_is_not_compared() -> None:
    assert crossed((pgd(0.1, 10), 50), (pgd(0.2, 20), 90)) == []
    assert crossed((pgd(0.1, 10), 50), (pgd(0.1, 20, restarts=2), 10)) == []


def test_attacks_without_gradients_must_not_win() -> None:
    condition = AdversarialCondition.model_validate(
        {"threat": {"norm": "Linf", "eps": 0.1}, "attacks": [{"name": "pgd"}, {"name": "square"}]}
    )

    def failing(*flipped_by: str | None) -> dict[str, Check]:
        rows: list[Row] = [row(i, 1, 1, 5 if name else 1, flipped_by=name) for i, name in enumerate(flipped_by)]
        return {check.name: check for check in condition_checks(condition, total(rows, condition)) if check.failed}

    assert failing("pgd", None, "pgd") == {}
    found = failing("pgd", "square", None)["gradient attacks are not beaten without gradients"]
    assert (found.images, found.means) == ((1,), "suspicious")


def test_a_claim_is_doubted_only_where_chance_does_not_explain_it() -> None:
    def right(count: int) -> list[Row]:
        return [row(i, 1, 1 if i < count else 2, 1) for i in range(100)]

    assert not claim_check(total(right(88)), 0.9).failed
    assert claim_check(total(right(75)), 0.9).failed
    assert not claim_check(total(right(100)), 0.9).failed


def test_binomial_tail_equals_a_sum_by_hand() -> None:
    assert binomial_below(1, 3, 0.5) == pytest.approx(4 / 8)
    assert binomial_below(0, 5, 0.9) == pytest.approx(1e-5)
    assert binomial_below(3, 3, 0.2) == pytest.approx(1)
    assert binomial_below(2, 3, 1.0) == 0


def test_curves_and_minimal_eps_by_hand() -> None:
    rows = [
        row(0, 1, 2, 2),  # wrong already
        row(1, 1, 1, 5, flipped_by="pgd", flipped_eps=0.1),
        row(2, 1, 1, 5, flipped_by="pgd", flipped_eps=0.15),
        row(3, 1, 1, 1),
    ]
    assert [(point.count, point.n) for point in curve(total(rows), (0.05, 0.1, 0.2))] == [(3, 4), (2, 4), (1, 4)]
    assert median_minimal_eps(total(rows)) == pytest.approx(0.125)  # the middle of 0.1 and 0.15
    assert median_minimal_eps(total(rows[2:] + rows[3:])) is None
    assert median_minimal_eps(total([])) is None


def test_the_grade_is_the_worst_that_failed() -> None:
    def check(means: str, failed: bool) -> Check:
        return Check.model_validate({"name": "n", "failed": failed, "means": means, "message": "m"})

    def graded(*checks: Check, complete: bool = True) -> str:
        return grade(checks, complete=complete)

    assert graded(check("invalid", False)) == "reliable"
    assert graded() == graded(check("invalid", False), complete=False) == "unchecked"
    assert graded(check("suspicious", True), check("invalid", False)) == "suspicious"
    assert graded(check("suspicious", True), check("at chance", True)) == "at chance"
    assert graded(check("suspicious", True), check("invalid", True), complete=False) == "invalid"
