"""The table in the terminal: whole names, every score, no line wider than the terminal."""

import itertools
import re
import shutil
from collections.abc import Iterator, Sequence

import pytest
from rich.cells import cell_len

import evaluation
import models
from cli.display import console, print_report
from evaluation import Report
from evaluation.reports.report import ConditionReport, ModelReport
from evaluation.statistics import proportion
from tests.evaluation.reports.table import PLAN

DEMO = [condition.title for condition in evaluation.preset("demo")]
ZOO = [*models.find_checkpoints()]


def scored(title: str, count: int, n: int) -> ConditionReport:
    score = proportion(count if n else 0, n)
    return ConditionReport(
        title=title,
        images_done=n,
        clean_accuracy=score,
        accuracy=score,
        top5_accuracy=None,
        drop=None,
        robust_accuracy=None,
        attack_success_rate=None,
        target_rate=None,
        outside_budget=(),
        seconds=0.0,
        images_forwarded=n,
    )


def reported(names: Sequence[str], titles: Sequence[str], ns: Iterator[int] | None = None) -> Report:
    """A report whose scores are 0.1 %, 0.2 % and so on, model by model."""
    counts, ns = itertools.count(1), ns or itertools.repeat(1000)
    found = (
        ModelReport(model=name, conditions=tuple(scored(title, next(counts), next(ns)) for title in titles))
        for name in names
    )
    return Report(plan=PLAN, complete=True, models=tuple(found), warnings=())


@pytest.fixture(autouse=True)
def _no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


def printed(report: Report, capsys: pytest.CaptureFixture[str], *, intervals: bool = False) -> list[str]:
    """The lines above the facts, of which none is too wide."""
    print_report(report, console(), intervals=intervals)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= shutil.get_terminal_size().columns
    return list(itertools.takewhile(lambda line: not line.startswith("- "), lines))


def scores(lines: Sequence[str]) -> list[str]:
    return re.findall(r"\d+\.\d\b", "\n".join(lines))


def expected(models: int, conditions: int) -> list[str]:
    return [f"{each / 10:.1f}" for each in range(1, models * conditions + 1)]


def test_the_zoo_under_the_demo_folds_into_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(reported(ZOO, DEMO), capsys)
    short = [name.replace(".fashion_mnist", "") for name in ZOO]
    rows = [line for line in lines if line.split(maxsplit=1)[:1] and line.split()[0] in short]
    assert [row.split()[0] for row in rows] == short * (len(rows) // 9)
    assert len(rows) > 9
    by_model = [number for name in short for row in rows if row.split()[0] == name for number in scores([row])]
    assert by_model == expected(9, 8)
    assert sum(".fashion_mnist" in line for line in lines) == 1
    for word in ("clean", "180", "upside-down", "left-right", "4/255", "8/255"):
        assert sum(word in line for line in lines) == 1, word


def test_a_wide_terminal_is_used(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "130")
    lines = printed(reported(ZOO, DEMO), capsys)
    (first,) = [line for line in lines if line.startswith("aa_resnet_mini ")]
    assert scores([first]) == expected(1, 8)


def test_a_narrow_terminal_breaks_words_not_scores(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    lines = printed(reported(ZOO, [*DEMO, "a" * 30]), capsys)
    assert sorted(map(float, scores(lines))) == sorted(map(float, expected(9, 9)))
    assert sum(line.startswith("aa_resnet_") for line in lines) == 9


def test_many_conditions_of_one_model_are_rows(capsys: pytest.CaptureFixture[str]) -> None:
    titles = [f"rotation {degrees}" for degrees in range(33)]
    lines = printed(reported(["resnet_mini.fashion_mnist"], titles), capsys)
    assert sum("resnet_mini.fashion_mnist" in line for line in lines) == 1, "nothing is shared by one name"
    rows = [line for line in lines if line.startswith("rotation ")]
    assert [row.rsplit(maxsplit=1) for row in rows] == [
        list(pair) for pair in zip(titles, expected(1, 33), strict=True)
    ]


def test_many_conditions_of_many_models_are_all_there(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(reported(ZOO, [f"rotation {degrees}" for degrees in range(33)]), capsys)
    assert sorted(map(float, scores(lines))) == sorted(map(float, expected(9, 33)))


@pytest.mark.parametrize("titles", [DEMO, ["clean"], ["a" * 100, "clean"]], ids=len)
@pytest.mark.parametrize("count", [1, 2])
def test_a_name_wider_than_the_terminal_is_folded_not_cut(
    capsys: pytest.CaptureFixture[str], titles: list[str], count: int
) -> None:
    names = [letter * 100 for letter in "xy"[:count]]
    lines = printed(reported(names, titles), capsys)
    assert sorted(scores(lines)) == sorted(expected(count, len(titles)))
    text = "".join(lines)
    assert text.count("x") % 100 == 0
    assert text.count("x") >= 100
    assert "…" not in text


def test_a_name_that_fits_beside_a_score_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["m" * 65, "k" * 65]
    lines = printed(reported(names, DEMO), capsys)
    for name in names:
        assert any(line.startswith(f"{name} ") for line in lines)


def test_wide_characters_and_markup_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["模型" * 8, "модель", "[red]:smile:"]
    lines = printed(reported(names, ["回転 90", "[b]", *DEMO]), capsys)
    text = "\n".join(lines)
    for name in names:
        assert name in text
    assert "[b]" in text
    assert sorted(map(float, scores(lines))) == sorted(map(float, expected(3, 10)))


def test_intervals_are_printed_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    report = reported(ZOO[:2], ["clean"])
    lines = printed(report, capsys, intervals=True)
    assert any(line.endswith(" 0.1 [0.0, 0.6]") for line in lines)
    assert not any("--intervals" in line for line in lines)
    without = printed(report, capsys)
    assert not any("[" in line for line in without)
    assert any("--intervals" in line for line in without)


def test_n_is_printed_once_or_in_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    assert sum("n = 1000" in line for line in printed(reported(ZOO, DEMO), capsys)) == 1
    lines = printed(reported(["a", "b"], ["clean"], iter([40, 300])), capsys)
    assert [line.split(maxsplit=1) for line in lines[-3:-1]] == [["a", "2.5 (n=40)"], ["b", "0.7 (n=300)"]]


def test_what_was_not_run_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(reported(["a"], ["clean", "PGD"], iter([10, 0])), capsys)
    assert lines[-2].split() == ["a", "10.0", "-"]


@pytest.mark.parametrize(
    ("names", "shown", "left_out"),
    [
        (["a.t", "b.t"], ["a", "b"], ".t"),
        (["a.t", "a.t_pgd"], ["a", "a_pgd"], ".t"),
        (["a.t_1", "b.t_2"], ["a_1", "b_2"], ".t"),
        (["a.cifar10", "b.cifar100"], ["a.cifar10", "b.cifar100"], ""),
        (["a.t_b", "a_b.t"], ["a.t_b", "a_b.t"], ""),
        (["a.t"], ["a.t"], ""),
        (["a", "b.t"], ["a", "b.t"], ""),
        (["mine", "mine@2"], ["mine", "mine@2"], ""),
    ],
)
def test_what_all_names_share_is_said_once(
    capsys: pytest.CaptureFixture[str], names: list[str], shown: list[str], left_out: str
) -> None:
    lines = printed(reported(names, ["clean"]), capsys)
    assert [line.split()[0] for line in lines[-1 - len(names) : -1]] == shown
    assert any(f"without {left_out}" in line for line in lines) == bool(left_out)
