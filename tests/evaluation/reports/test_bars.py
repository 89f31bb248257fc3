"""Bars that scores must reach, and the file that a build server reads."""

from xml.etree import ElementTree

import pytest

from evaluation import Report, merge
from evaluation.reports.bars import Bar, below_bar, parse_bar, to_junit
from tests.evaluation.reports.table import ATTACKED, CLEAN, PLAN, ROTATED, result


@pytest.fixture
def report() -> Report:
    return merge(PLAN, [result(0, CLEAN), result(1, ROTATED), result(2, ATTACKED)])


def bars(*texts: str) -> list[Bar]:
    return [parse_bar(text, PLAN.spec) for text in texts]


def test_a_bar_is_about_the_conditions_it_names(report: Report) -> None:
    assert below_bar(report, []) == []
    *scores, trust = below_bar(report, bars("clean=0.8", "rotation*=0.3"))
    assert scores == []
    assert trust.startswith("m: its numbers cannot be trusted (invalid): 1 adversarial images lie outside")
    assert below_bar(report, bars("rotation 90=0.31")) == [
        "m, rotation 90: 0.3000 (n = 10), at least 0.31 is asked for",
        trust,
    ]
    robust, _ = below_bar(report, bars("PGD*=0.6", "pgd-20*=0.1"))
    assert robust.startswith("m, PGD-20 Linf 0.1 to random: 0.5000")


def test_strict_asks_the_lower_end_of_the_interval_and_a_reliable_grade(report: Report) -> None:
    reliable = report.model_copy(
        update={"models": tuple(each.model_copy(update={"grade": "reliable"}) for each in report.models)}
    )
    assert below_bar(reliable, bars("clean=0.8")) == []
    assert below_bar(reliable, bars("clean=0.8"), strict=True) == [
        "m, clean: 0.8000 (n = 10, interval 0.4902 to 0.9433), at least 0.8 is asked for"
    ]
    assert below_bar(reliable, bars("clean=0.49"), strict=True) == []
    suspicious = report.model_copy(
        update={"models": tuple(each.model_copy(update={"grade": "suspicious"}) for each in report.models)}
    )
    assert below_bar(suspicious, bars("clean=0.49")) == []
    (refused,) = below_bar(suspicious, bars("clean=0.49"), strict=True)
    assert refused.startswith("m: its numbers cannot be trusted (suspicious): ")


@pytest.mark.parametrize("text", ["clean", "clean=", "=0.5", "clean=1.5", "clean=-1", "clean=nan", "clean=high"])
def test_a_bar_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"such as clean=0.9 or 'pgd\\*=0.4', got '{text}'"):
        bars(text)


def test_a_bar_about_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no condition fits 'square'; there are: clean, rotation 90, PGD-20"):
        bars("square=0.5")


def test_junit_counts_cases_and_failures(report: Report) -> None:
    suite = ElementTree.fromstring(to_junit(report, below_bar(report, bars("rotation*=0.31", "pgd*=0.6"))))
    assert (suite.get("tests"), suite.get("failures")) == ("4", "3")
    failing = {case.get("name") for case in suite if case.find("failure") is not None}
    assert failing == {"rotation 90", "PGD-20 Linf 0.1 to random", "trust"}
    passing = ElementTree.fromstring(to_junit(report, []))
    assert passing.get("failures") == "0"
