"""Finished shards in a folder: the same question is answered from there, a larger one goes on from there."""

from pathlib import Path
from typing import Any

import pytest

import evaluation.plan
from evaluation import Catalog, EvaluationSpec, Report, ResultFolder, ShardResult, evaluate, make_plan
from tests.conftest import without_times

PGD: dict[str, Any] = {
    "kind": "adversarial",
    "threat": {"norm": "Linf", "eps": "16/255"},
    "attacks": [{"name": "pgd", "parameters": {"steps": 2, "step_size": "2/255"}}],
}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation.plan, "SHARD_IMAGES", 10)


def spec(**changes: object) -> EvaluationSpec:
    facts = {"models": ["tiny"], "dataset": "shapes", "images": 24, "conditions": [{"kind": "clean"}, PGD], **changes}
    return EvaluationSpec.model_validate(facts)


def restarted(restarts: int) -> list[dict[str, Any]]:
    return [{"kind": "clean"}, PGD | {"attacks": [PGD["attacks"][0] | {"restarts": restarts}]}]


def run(catalog: Catalog, folder: Path | None, **changes: object) -> tuple[Report, list[ShardResult]]:
    results: list[ShardResult] = []
    stored = ResultFolder(folder) if folder else None
    report = evaluate(
        spec(**changes), catalog=catalog, device="cpu", results=stored, on_shard=lambda each, *_: results.append(each)
    )
    return report, results


@pytest.mark.parametrize(
    ("asked", "shards"),
    [({}, 6), ({"stop_width": 0.6}, 2), ({"conditions": [PGD], "claim": {"claimed": 1.0, "tolerance": 0.5}}, 1)],
)
def test_the_same_question_is_answered_from_the_folder(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], shards: int
) -> None:
    first, results = run(catalog, tmp_path, **asked)
    assert first.complete and len(results) == shards, "what ends early has fewer"
    monkeypatch.setattr(Catalog, "load_folded", None)  # nothing may be loaded
    again, same = run(catalog, tmp_path, **asked)
    assert (again, same) == (first, results)


@pytest.mark.parametrize(
    ("before", "after", "computed"),
    [
        ({"images": 24}, {"images": 33}, 4),
        ({"conditions": restarted(1)}, {"conditions": restarted(3)}, 3),
        (
            {"models": ["tiny"]},
            {"models": ["tiny", "twin"]},
            2,
        ),  # a copy of the file, whose adversarial images are tried on the first
        pytest.param({"seed": 0}, {"seed": 1}, 6, marks=pytest.mark.thorough),
        ({"precision": "float32"}, {"precision": "bfloat16"}, 6),
    ],
    ids=str,
)
def test_another_question_takes_what_it_can_and_is_answered_as_if_from_nothing(
    catalog: Catalog, tmp_path: Path, before: dict[str, Any], after: dict[str, Any], computed: int
) -> None:
    _, first = run(catalog, tmp_path, **before)
    report, results = run(catalog, tmp_path, **after)
    there = {each.seconds for each in first}
    assert sum(each.seconds not in there for each in results) == computed
    assert without_times(report) == without_times(run(catalog, None, **after)[0])


def test_what_was_found_before_is_not_run_again(catalog: Catalog, tmp_path: Path) -> None:
    """What is stored is marked, and found in what goes on from it."""
    stored, plan = ResultFolder(tmp_path), make_plan(spec(seed=6, conditions=restarted(1)), catalog)
    for result in run(catalog, None, seed=6, conditions=restarted(1))[1]:
        marked = tuple(row.model_copy(update={"confidence": 0.123}) for row in result.rows)
        stored.save(plan, result.model_copy(update={"rows": marked}))
    _, results = run(catalog, tmp_path, seed=6, conditions=restarted(3))
    rows = [row for result in results[3:] for row in result.rows]
    assert [row.confidence == 0.123 for row in rows] == [row.flipped_restart == 0 for row in rows]
    assert {row.flipped_restart for row in rows} == {None, 0, 1, 2}


def test_what_other_code_computed_is_computed_anew(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = run(catalog, tmp_path)
    monkeypatch.setattr(evaluation.plan, "code_version", lambda: "0.1.0 of tomorrow")
    _, again = run(catalog, tmp_path)
    assert not {each.seconds for each in first} & {each.seconds for each in again}


@pytest.mark.parametrize("content", [b"", b"{", b'{"rows": []}', b"\xff"])
def test_what_cannot_be_read_is_computed_anew(catalog: Catalog, tmp_path: Path, content: bytes) -> None:
    first, _ = run(catalog, tmp_path)
    for path in tmp_path.glob("*/*.json"):
        path.write_bytes(content)
    again, _ = run(catalog, tmp_path)
    assert without_times(again) == without_times(first)
    assert all(path.read_bytes() != content for path in tmp_path.glob("*/*.json"))
    assert not [*tmp_path.glob("*/*.tmp")]


def test_shards_with_rows_missing_are_computed_anew(catalog: Catalog, tmp_path: Path) -> None:
    first, results = run(catalog, tmp_path)
    for path in tmp_path.glob("*/*.json"):
        found = ShardResult.model_validate_json(path.read_bytes())
        path.write_text(found.model_copy(update={"rows": found.rows[:3]}).model_dump_json())
    again, whole = run(catalog, tmp_path)
    assert without_times(again) == without_times(first)
    assert [len(each.rows) for each in whole] == [len(each.rows) for each in results]


def test_what_is_no_file_is_not_read(catalog: Catalog, tmp_path: Path) -> None:
    first, _ = run(catalog, tmp_path)
    for path in tmp_path.glob("*/*.json"):
        path.rename(path.with_suffix(".other"))
        path.mkdir()
    with pytest.raises(OSError, match="json"):  # computed, but cannot be stored there
        run(catalog, tmp_path)
    for path in tmp_path.glob("*/*.json"):
        path.rmdir()
    assert without_times(run(catalog, tmp_path)[0]) == without_times(first)


def test_a_folder_that_cannot_be_written_is_an_error_before_anything_is_computed(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Catalog, "load_folded", None)
    (tmp_path / "results").write_text("a file")
    with pytest.raises(OSError, match=r"finished work cannot be stored in .*results: .*; choose another folder"):
        run(catalog, tmp_path / "results")
