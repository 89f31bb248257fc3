"""The forms of a report, read back."""

import csv
import io
import json
import pkgutil
from dataclasses import replace
from typing import Any

import pyarrow.parquet
import pytest

from evaluation import Format, Report, formats, image_rows, merge, register_format, report_format, report_formats
from evaluation.compute.conditions import Row
from tests.evaluation.reports.table import ATTACKED, CLEAN, PLAN, ROTATED, result

RESULTS = [result(0, CLEAN), result(1, ROTATED), result(2, ATTACKED)]


@pytest.fixture
def report() -> Report:
    return merge(PLAN, RESULTS)


def rows() -> list[dict[str, Any]]:
    files = tuple(f'class/{index}, "odd".png' for index in range(10))
    return image_rows(PLAN, RESULTS[::-1], files)


def text(name: str, report: Report) -> str:
    return report_format(name).to_bytes(report, rows).decode()


def test_latex_has_a_row_a_model_and_escapes(report: Report) -> None:
    odd = report.model_copy(update={"models": (report.models[0].model_copy(update={"model": "a_b & 100%"}),)})
    lines = text("latex", odd).splitlines()
    assert lines[0] == r"\begin{tabular}{lrrr}"
    # 5 of 10 is 50.0 [23.7, 76.3]; 8 of 10 is 80.0 [49.0, 94.3]: the longer side is given.
    assert lines[4] == r"a\_b \& 100\% & $80.0^{+14.3}_{-31.0}$ & $30.0^{+30.3}_{-19.2}$ & $50.0^{+26.3}_{-26.3}$ \\"
    assert all(line.startswith("%") for line in lines[lines.index(r"\end{tabular}") + 1 :])


def test_the_methods_paragraph_says_what_decides_the_numbers(report: Report) -> None:
    paragraph = text("methods", report)
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
        assert fact in paragraph
    assert "PARTIAL" not in paragraph
    assert paragraph.endswith(".\n")
    assert paragraph.count("\n") == 1
    assert text("methods", merge(PLAN, RESULTS[:1])).startswith("PARTIAL RESULT.")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\t\r\n=1"])
def test_no_text_of_a_csv_is_a_formula(report: Report, text: str) -> None:
    row = {"model": text, "file": f"a{text}", "label": -1, "confidence": -0.5, "rank": None}
    written = report_format("csv").write(report, lambda: [row])
    (read,) = csv.DictReader(io.StringIO(str(written), newline=""))
    text = text.replace("\r", "\\r")
    assert read == {"model": f"'{text}", "file": f"a{text}", "label": "-1", "confidence": "-0.5", "rank": ""}


def test_csv_and_parquet_hold_every_row(report: Report) -> None:
    read = list(csv.DictReader(io.StringIO(text("csv", report))))
    assert len(read) == 30
    assert [each["condition"] for each in read[::10]] == [each.title for each in report.models[0].conditions]
    flipped = read[20]
    assert (flipped["index"], flipped["flipped_by"], flipped["distance"], flipped["file"]) == (
        "0",
        "pgd",
        "0.1",
        'class/0, "odd".png',
    )
    table = pyarrow.parquet.read_table(io.BytesIO(report_format("parquet").to_bytes(report, rows)))
    assert table.num_rows == 30
    of_every_model = {name for name, field in Row.model_fields.items() if field.exclude_if is None}
    assert of_every_model < set(table.column_names)
    assert table.column("flipped_by").to_pylist()[20:24] == ["pgd", "pgd", "pgd", None]
    assert json.loads(table.schema.metadata[b"withstand"])["evaluation"] == PLAN.id


def test_of_nothing_there_is_a_header_at_least(report: Report) -> None:
    assert report_format("csv").write(report, list) == "model,condition\n"


def test_the_manifest_repeats_the_question(report: Report) -> None:
    found = json.loads(text("manifest", report))
    assert found["spec"] == PLAN.spec.model_dump(mode="json")
    assert (found["dataset_sha256"], found["model_sha256"]) == ("d" * 64, {"m": "e" * 64})


def test_a_name_and_a_suffix_belong_to_one_format() -> None:
    csv_format = report_format("csv")
    with pytest.raises(ValueError, match="report format 'csv' is registered twice"):
        register_format(csv_format)
    with pytest.raises(ValueError, match=r"'csv' and 'semicolons' have the same suffix '\.csv'"):
        register_format(replace(csv_format, name="semicolons"))
    assert "semicolons" not in [form.name for form in report_formats()]
    with pytest.raises(ValueError, match=r"unknown report format 'latx'\. Did you mean 'latex'"):
        report_format("latx")


def test_every_file_of_the_folder_registers_the_format_it_is_named_for() -> None:
    files = {each.name for each in pkgutil.iter_modules(formats.__path__)}
    assert files == {form.name for form in report_formats()} - {"html"}  # which the service brings


def test_text_becomes_utf_8_and_bytes_stay(report: Report) -> None:
    form = Format(name="x", media_type="text/plain", description="x", write=lambda report, rows: "ε")
    assert form.to_bytes(report, rows) == "ε".encode()
    assert replace(form, write=lambda report, rows: b"\xff").to_bytes(report, rows) == b"\xff"
