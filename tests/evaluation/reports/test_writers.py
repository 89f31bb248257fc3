"""The forms of a report, read back."""

import csv
import io
import json
from typing import Any
from xml.etree import ElementTree

import pyarrow.parquet
import pytest

from evaluation import Report, merge
from evaluation.compute.conditions import Row
from evaluation.reports import writers
from evaluation.reports.charts import charts
from tests.evaluation.reports.table import ATTACKED, CLEAN, PLAN, ROTATED, result

RESULTS = [result(0, CLEAN), result(1, ROTATED), result(2, ATTACKED)]


@pytest.fixture
def report() -> Report:
    return merge(PLAN, RESULTS)


def rows() -> list[dict[str, Any]]:
    files = tuple(f'class/{index}, "odd".png' for index in range(10))
    return writers.image_rows(PLAN, RESULTS[::-1], files)


def test_latex_has_a_row_a_model_and_escapes(report: Report) -> None:
    odd = report.model_copy(update={"models": (report.models[0].model_copy(update={"model": "a_b & 100%"}),)})
    lines = writers.to_latex(odd).splitlines()
    assert lines[0] == r"\begin{tabular}{lrrr}"
    # 5 of 10 is 50.0 [23.7, 76.3]; 8 of 10 is 80.0 [49.0, 94.3]: the longer side is given.
    assert lines[4] == r"a\_b \& 100\% & $80.0^{+14.3}_{-31.0}$ & $30.0^{+30.3}_{-19.2}$ & $50.0^{+26.3}_{-26.3}$ \\"
    assert all(line.startswith("%") for line in lines[lines.index(r"\end{tabular}") + 1 :])


def test_the_methods_paragraph_says_what_decides_the_numbers(report: Report) -> None:
    text = writers.methods(report)
    for fact in (
        "10 images of d",
        "seed 0",
        "steps=20",
        "95 % Wilson",
        "PGD-20 Linf 0.1",
        PLAN.id,
        "random_start=True",
        "2.5 * eps / steps",
    ):
        assert fact in text
    assert "PARTIAL" not in text
    assert "\n" not in text
    assert writers.methods(merge(PLAN, RESULTS[:1])).startswith("PARTIAL RESULT.")


def test_csv_and_parquet_hold_every_row(report: Report) -> None:
    read = list(csv.DictReader(io.StringIO(writers.to_csv(rows()))))
    assert len(read) == 30
    assert [each["condition"] for each in read[::10]] == [each.title for each in report.models[0].conditions]
    flipped = read[20]
    assert (flipped["index"], flipped["flipped_by"], flipped["distance"], flipped["file"]) == (
        "0",
        "pgd",
        "0.1",
        'class/0, "odd".png',
    )
    table = pyarrow.parquet.read_table(io.BytesIO(writers.to_parquet(rows(), report)))
    assert table.num_rows == 30
    assert set(Row.model_fields) < set(table.column_names)
    assert table.column("flipped_by").to_pylist()[20:24] == ["pgd", "pgd", "pgd", None]
    assert json.loads(table.schema.metadata[b"withstand"])["evaluation"] == PLAN.id


def test_of_nothing_there_is_a_header_at_least() -> None:
    assert writers.to_csv([]) == "model,condition\n"


def test_the_manifest_repeats_the_question(report: Report) -> None:
    found = writers.manifest(report)
    assert found["spec"] == PLAN.spec.model_dump(mode="json")
    assert (found["dataset_sha256"], found["model_sha256"]) == ("d" * 64, {"m": "e" * 64})


def bars(*texts: str) -> list[writers.Bar]:
    return [writers.parse_bar(text, PLAN.spec) for text in texts]


def test_a_bar_is_about_the_conditions_it_names(report: Report) -> None:
    assert writers.below_bar(report, []) == []
    *scores, trust = writers.below_bar(report, bars("clean=0.8", "rotation*=0.3"))
    assert scores == []
    assert trust.startswith("m: its numbers cannot be trusted (invalid): 1 adversarial images lie outside")
    assert writers.below_bar(report, bars("rotation 90=0.31")) == [
        "m, rotation 90: 0.3000 (n = 10), at least 0.31 is asked for",
        trust,
    ]
    robust, _ = writers.below_bar(report, bars("PGD*=0.6", "pgd-20*=0.1"))
    assert robust.startswith("m, PGD-20 Linf 0.1 to random: 0.5000")


@pytest.mark.parametrize("text", ["clean", "clean=", "=0.5", "clean=1.5", "clean=-1", "clean=nan", "clean=high"])
def test_a_bar_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"such as clean=0.9 or 'pgd\\*=0.4', got '{text}'"):
        bars(text)


def test_a_bar_about_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no condition fits 'square'; there are: clean, rotation 90, PGD-20"):
        bars("square=0.5")


def test_junit_counts_cases_and_failures(report: Report) -> None:
    suite = ElementTree.fromstring(
        writers.to_junit(report, writers.below_bar(report, bars("rotation*=0.31", "pgd*=0.6")))
    )
    assert (suite.get("tests"), suite.get("failures")) == ("4", "3")
    failing = {case.get("name") for case in suite if case.find("failure") is not None}
    assert failing == {"rotation 90", "PGD-20 Linf 0.1 to random", "trust"}
    passing = ElementTree.fromstring(writers.to_junit(report, []))
    assert passing.get("failures") == "0"


def test_charts_are_found_where_one_number_varies() -> None:
    def condition(**parameters: object) -> dict[str, object]:
        return {"kind": "transform", "name": "rotation", "parameters": parameters}

    def attack(eps: float, steps: int) -> dict[str, object]:
        return {
            "kind": "adversarial",
            "threat": {"norm": "Linf", "eps": eps},
            "attacks": [{"name": "pgd", "parameters": {"steps": steps}}],
        }

    def found(*conditions: dict[str, object]) -> list[tuple[str, list[float]]]:
        spec = PLAN.spec.model_validate(PLAN.spec.model_dump() | {"conditions": [{"kind": "clean"}, *conditions]})
        plan = PLAN.model_copy(update={"spec": spec})
        report = merge(plan, [result(index, CLEAN) for index in range(len(conditions) + 1)])
        return [(chart.title, [x for x, _ in chart.series[0].points]) for chart in charts(report)]

    assert found(condition(degrees=90), condition(degrees=45)) == [("Rotation", [0, 45, 90])]
    assert found(condition(degrees=90)) == []
    assert found(attack(0.1, 5), attack(0.1, 50), attack(0.1, 10)) == [("PGD against steps", [5, 10, 50])]
    assert [title for title, _ in found(attack(0.1, 5), attack(0.2, 5), attack(0.3, 5))] == ["PGD against eps"]
    assert found(attack(0.1, 5), attack(0.2, 50), attack(0.2, 10), attack(0.1, 50)) == []
    curve = {"kind": "curve", "norm": "Linf", "eps": [0.05, 0.1], "attacks": [{"name": "pgd"}]}
    assert [len(points) for _, points in found(curve)] == [3]
