"""Metrics against a table of ten images that was counted by hand."""

import json

import pytest

from evaluation import (
    Report,
    Side,
    compare,
    image_rows,
    merge,
    preset,
    report_format,
)
from evaluation.reports.mce import ALEXNET
from tests.evaluation.reports.table import ATTACKED, CLEAN, PLAN, ROTATED, SPEC, equal_classes, result, row

# Clean: images 0 to 7 are right. Under the attack: 0, 1, 2 are flipped; 3 is wrong but outside the budget; 8 becomes right.


def numbers(report: Report, condition: int) -> dict[str, object]:
    found = report.models[0].conditions[condition].model_dump()
    return {
        name: (value["count"], value["n"]) if isinstance(value, dict) else value
        for name, value in found.items()
        if name not in {"title", "seconds", "images_forwarded"}
    }


def test_ten_images_counted_by_hand() -> None:
    report = merge(PLAN, [result(0, CLEAN), result(1, ROTATED), result(2, ATTACKED)])
    assert report.complete
    empty = {
        "clean_accuracy": (8, 10),
        "curve": (),
        "median_minimal_eps": None,
        "not_run": (),
        "flipped_in_float32": 0,
        "examples": (),
    }
    nothing = empty | {"robust_accuracy": None, "attack_success_rate": None, "target_rate": None, "outside_budget": ()}
    assert numbers(report, 0) == {
        "images_done": 10,
        "accuracy": (8, 10),
        "top5_accuracy": (10, 10),
        "drop": 0.0,
        **nothing,
    }
    # Ranks of the seven wrong ones are 2 to 8: three of them are below five.
    assert numbers(report, 1) == {
        "images_done": 10,
        "accuracy": (3, 10),
        "top5_accuracy": (6, 10),
        "drop": 0.5,
        **nothing,
    }
    assert numbers(report, 2) == {
        "images_done": 10,
        "accuracy": (5, 10),
        "top5_accuracy": (10, 10),
        "drop": pytest.approx(0.3),
        "robust_accuracy": (5, 10),  # 4 to 7, and 3: what leaves the budget has not flipped it
        "attack_success_rate": (3, 8),
        "target_rate": (2, 10),
        "outside_budget": (3,),
        **empty,
    }
    assert report.models[0].conditions[2].images_forwarded == 30
    assert report.warnings == (
        "m, PGD-20 Linf 0.1 to random: 1 adversarial images lie outside the budget or hold NaN "
        "and count as standing (images 3) [invalid]",
    )


def test_a_shard_is_counted_once() -> None:
    with pytest.raises(ValueError, match="counted twice"):
        merge(PLAN, [result(0, CLEAN), result(0, CLEAN)])


def test_a_stranger_is_refused() -> None:
    with pytest.raises(ValueError, match="not of this plan"):
        merge(PLAN, [result(0, CLEAN[:5])])


def test_a_partial_report_says_so() -> None:
    report = merge(PLAN, [result(1, ROTATED)])
    assert not report.complete
    assert numbers(report, 0)["accuracy"] is None
    assert numbers(report, 1)["accuracy"] == (3, 10)
    assert "PARTIAL" in report.to_markdown()
    assert "PARTIAL" not in merge(PLAN, [result(0, CLEAN), result(1, ROTATED), result(2, ATTACKED)]).to_markdown()


def test_the_order_of_results_does_not_matter() -> None:
    results = [result(0, CLEAN), result(1, ROTATED), result(2, ATTACKED)]
    assert merge(PLAN, results) == merge(PLAN, results[::-1])


def test_json_round_trip() -> None:
    report = merge(PLAN, [result(2, ATTACKED)])
    assert Report.model_validate_json(report.model_dump_json()) == report
    assert json.loads(report.model_dump_json())["schema_version"] == 5


def test_markdown_has_a_row_a_model_and_n_in_every_cell() -> None:
    lines = merge(PLAN, [result(0, CLEAN), result(1, ROTATED), result(2, ATTACKED)]).to_markdown().splitlines()
    assert lines[0] == "| model | clean | rotation 90 | PGD-20 Linf 0.1 to random |"
    # Wilson intervals of 8, 3 and 5 of 10.
    assert lines[2] == "| m | 80.0 [49.0, 94.3] (n=10) | 30.0 [10.8, 60.3] (n=10) | 50.0 [23.7, 76.3] (n=10) |"


def test_many_conditions_are_rows_in_every_form() -> None:
    plan = PLAN.model_copy(update={"spec": SPEC.model_copy(update={"conditions": preset("angles")})})
    report = merge(plan, [result(0, CLEAN), *(result(position, ROTATED) for position in range(1, 24))])
    lines = report.to_markdown().splitlines()
    assert lines[:2] == ["| condition | m |", "|---|---|"]
    assert lines[3] == "| rotation 15 | 30.0 [10.8, 60.3] (n=10) |"
    assert lines[25] == "| rotation 345 | 30.0 [10.8, 60.3] (n=10) |"
    latex = report_format("latex").to_bytes(report, list).decode().splitlines()
    assert latex[0] == r"\begin{tabular}{lr}"
    assert latex[4] == r"clean & $80.0^{+14.3}_{-31.0}$ \\"
    assert latex[27] == r"rotation 345 & $30.0^{+30.3}_{-19.2}$ \\"


def test_the_mce_needs_all_corruptions_and_is_alexnets_share_on_imagenet_alone() -> None:
    conditions = preset("corruptions")
    spec = SPEC.model_copy(update={"conditions": conditions})
    plan = PLAN.model_copy(update={"spec": spec})
    every = [result(0, CLEAN), *(result(position, ROTATED) for position in range(1, 76))]
    found = merge(plan, every)
    assert found.models[0].mce == pytest.approx(0.7)  # 3 of 10 right under each
    assert found.models[0].mce_of_alexnet is None
    assert "mean corruption error of m: 70.00 %\n" in found.to_markdown()
    assert merge(plan, every[:-1]).models[0].mce is None
    of_imagenet = merge(plan.model_copy(update={"matches": equal_classes(1000)}), every).models[0].mce_of_alexnet
    assert of_imagenet == pytest.approx(sum(0.7 / each for each in ALEXNET.values()) / 15)


def test_a_condition_ends_with_the_first_shards_that_suffice() -> None:
    spec = SPEC.model_copy(update={"conditions": SPEC.conditions[:1], "stop_width": 0.2})
    plan = PLAN.model_copy(update={"spec": spec, "images": 400})
    # Half right: 100 images are 19.2 points wide at p = 0.5, 200 are 13.7.
    rows = [[row(100 * k + i, 1, 1 if i % 2 else 2, 1 if i % 2 else 2) for i in range(100)] for k in range(4)]
    every = [result(0, each, start=100 * k) for k, each in enumerate(rows)]
    report = merge(plan, every[:1])
    assert report.complete
    assert report == merge(plan, every) == merge(plan, [every[3], every[0]])
    assert numbers(report, 0)["accuracy"] == (50, 100)
    assert "a condition ended once its interval was at most 20 points wide" in report.to_markdown()

    assert [each["index"] for each in image_rows(plan, every[::-1])] == [*range(100)], "what is not counted is no row"
    compared = compare(Side(plan, "m", every), Side(plan, "m", every[:2]))
    assert [each.n for each in compared.conditions] == [100]

    narrow = plan.model_copy(update={"spec": spec.model_copy(update={"stop_width": 0.14})})
    assert not merge(narrow, every[:1]).complete
    assert not merge(narrow, [every[0], every[2]]).complete, "there is a gap"
    assert numbers(merge(narrow, every[::-1]), 0)["accuracy"] == (100, 200)
    never = plan.model_copy(update={"spec": spec.model_copy(update={"stop_width": None})})
    assert not merge(never, every[:3]).complete


def test_with_five_classes_there_is_no_top_five() -> None:
    report = merge(PLAN.model_copy(update={"matches": equal_classes(5)}), [result(0, CLEAN)])
    assert report.models[0].conditions[0].top5_accuracy is None


def test_a_condition_that_was_certain_enough_stays_so_when_checks_flip_more() -> None:
    """All of 100 images stand, in an interval 3.6 points wide; with the two that only a check has flipped it is 6.3 wide."""
    spec = SPEC.model_copy(update={"conditions": SPEC.conditions[2:], "stop_width": 0.05})
    plan = PLAN.model_copy(update={"spec": spec, "images": 400})
    rows = [row(i, 1, 1, 1, reached=False) for i in range(100)]
    flipped = tuple(row(i, 1, 1, 5, flipped_by="Square", reached=True) for i in (0, 1))
    report = merge(plan, [result(0, rows).model_copy(update={"flipped_by_checks": flipped})])
    assert report.complete
    robust = report.models[0].conditions[0].robust_accuracy
    assert robust is not None
    assert (robust.count, robust.n) == (98, 100)
