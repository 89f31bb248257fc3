"""Broken pictures are found before anything is computed, and refused or left out as was asked."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evaluation.catalog
import evaluation.data.broken
from evaluation import (
    BrokenPicturesError,
    Catalog,
    EvaluationSpec,
    ImageFolder,
    Report,
    ResultFolder,
    SelectionError,
    evaluate,
    find_broken,
    make_plan,
    open_dataset,
    select_usable,
)
from tests.conftest import CLASSES, picture_bytes, shape_picture, without_times

EACH = 12


def without_range() -> bytes:
    data = io.BytesIO()
    Image.new("F", (4, 4)).save(data, "TIFF")
    return data.getvalue()


BROKEN = {
    "disc/02.png": (b"junk", "not a picture"),
    "disc/07.png": (b"", "is empty"),
    "square/00.png": (picture_bytes(Image.effect_noise((32, 32), 50))[:300], "broken or truncated"),
    "stripes/11.png": (without_range(), "mode F"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures in each of three classes; four are broken, each in another way."""
    path, generator = tmp_path / "sets" / "mixed", np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (path / name).mkdir(parents=True)
        for number in range(EACH):
            data = picture_bytes(shape_picture(label, generator))
            (path / name / f"{number:02d}.png").write_bytes(data)
    for name, (data, _) in BROKEN.items():
        (path / name).write_bytes(data)
    return path


@pytest.fixture
def mixed(folder: Path, catalog: Catalog) -> Catalog:
    return Catalog(catalog.model_folders, (folder.parent,), notes=folder.parents[1] / "notes")


def spec(**changes: object) -> EvaluationSpec:
    return EvaluationSpec.model_validate({"models": ["tiny"], "dataset": "mixed", **changes})


def forbid_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(dataset: ImageFolder, files: object, index: int) -> None:
        raise AssertionError(f"{dataset.files[index]} is looked at again")

    monkeypatch.setattr(evaluation.data.broken, "_wrong_with", look)


def test_all_are_found_with_their_reasons(folder: Path) -> None:
    dataset = open_dataset(folder)
    found = find_broken(dataset, range(len(dataset)))
    assert [each.file for each in found] == sorted(BROKEN)
    for each in found:
        assert BROKEN[each.file][1] in each.reason
        assert "mixed" not in each.reason, "the file is named once"
        assert dataset.files[each.index] == each.file


def test_to_fail_names_all_before_the_first_pass(mixed: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.worker.run_shard", lambda *_, **__: pytest.fail("something was computed"))
    with pytest.raises(BrokenPicturesError) as refused:
        evaluate(spec(), catalog=mixed, device="cpu")
    message = str(refused.value)
    assert message.startswith("mixed: 4 of the 36 selected pictures cannot be used: disc/02.png: not a picture")
    for name in BROKEN:
        assert name in message
    assert "Repair or remove" in message
    assert "--on-broken skip" in message


def test_a_long_list_is_cut(folder: Path) -> None:
    for number in range(8):
        (folder / "disc" / f"{number:02d}.png").write_bytes(b"junk")
    with pytest.raises(
        BrokenPicturesError, match=r"^mixed: 10 of .*disc/04.png: [^;]*; and 5 more\. Repair"
    ) as refused:
        select_usable(open_dataset(folder), None, 0)
    assert len(refused.value.broken) == 10


def test_to_fail_only_looks_at_what_is_selected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(folder)
    broken = {dataset.files.index(name) for name in BROKEN}
    order = dataset.select(None, 0)
    n = next(position for position, index in enumerate(order) if index in broken)
    looked: list[int] = []
    look = evaluation.data.broken._wrong_with
    monkeypatch.setattr(
        evaluation.data.broken,
        "_wrong_with",
        lambda data, files, index: (looked.append(index), look(data, files, index))[1],
    )
    assert select_usable(dataset, n, 0) == (order[:n], ())
    assert sorted(looked) == sorted(order[:n])
    with pytest.raises(BrokenPicturesError, match=f"1 of the {n + 1} selected"):
        select_usable(dataset, n + 1, 0)
    assert sorted(looked) == sorted(order[: n + 1]), "none twice"


@pytest.mark.parametrize("seed", range(3))
def test_a_selection_without_broken_ones_is_one_order_whatever_its_length(folder: Path, seed: int) -> None:
    whole, _ = select_usable(open_dataset(folder), None, seed, on_broken="skip")
    good = open_dataset(folder)
    assert {good.files[index] for index in whole} == set(good.files) - set(BROKEN)
    for n in range(1, len(whole) + 1):
        dataset = open_dataset(folder)
        chosen, skipped = select_usable(dataset, n, seed, on_broken="skip")
        assert chosen == whole[:n]
        assert {each.file for each in skipped} <= set(BROKEN)
        assert chosen == dataset.select(n, seed, broken=[each.index for each in skipped])
    counts = Counter(good.labels[index] for index in whole[:30])
    assert set(counts.values()) == {10}, "classes stay even"


def test_more_than_can_be_used_is_refused(folder: Path) -> None:
    with pytest.raises(SelectionError, match="33 images asked for, mixed has 36, 4 of them broken"):
        select_usable(open_dataset(folder), 33, 0, on_broken="skip")


def test_to_skip_reports_how_many_and_which(mixed: Catalog, folder: Path) -> None:
    report = evaluate(spec(on_broken="skip"), catalog=mixed, device="cpu")
    assert report.plan.images == 32
    score = report.models[0].conditions[0].accuracy
    assert score is not None
    assert score.n == 32
    assert [each.file for each in report.plan.skipped] == sorted(BROKEN)
    assert Report.model_validate_json(report.model_dump_json()) == report
    fact = next(fact for fact in report.facts() if "skipped" in fact)
    assert fact.startswith("4 broken pictures were skipped: disc/02.png: not a picture")
    for name in BROKEN:
        (folder / name).unlink()
    assert without_rows_and_ids(evaluate(spec(), catalog=mixed, device="cpu")) == without_rows_and_ids(report)


def without_rows_and_ids(report: Report) -> object:
    return without_times(report)["models"]


def test_growing_a_selection_computes_only_the_new_images(mixed: Catalog, tmp_path: Path) -> None:
    results = ResultFolder(tmp_path / "results")
    small = evaluate(spec(on_broken="skip", images=20), catalog=mixed, device="cpu", results=results)
    grown = evaluate(spec(on_broken="skip", images=32), catalog=mixed, device="cpu", results=results)
    anew = evaluate(spec(on_broken="skip", images=32), catalog=mixed, device="cpu")
    first, second = (each.models[0].conditions[0] for each in (small, grown))
    assert second.images_forwarded - first.images_forwarded == 12
    assert without_times(grown) == without_times(anew)


def test_a_second_run_looks_at_nothing(mixed: Catalog, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = make_plan(spec(on_broken="skip"), mixed)
    forbid_looking(monkeypatch)
    evaluation.catalog._open.__wrapped__.cache_clear()  # as in another process
    assert make_plan(spec(on_broken="skip"), mixed) == before
    with pytest.raises(BrokenPicturesError, match="4 of the 36"):
        make_plan(spec(), mixed)


def test_what_changed_is_looked_at_again(folder: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    everything = range(3 * EACH)
    assert len(find_broken(open_dataset(folder, notes=notes), everything)) == 4
    (folder / "disc" / "02.png").write_bytes((folder / "disc" / "01.png").read_bytes())
    assert len(find_broken(open_dataset(folder, notes=notes), everything)) == 3
    for file in notes.iterdir():
        file.write_text("{")  # what cannot be read is found out anew
    assert len(find_broken(open_dataset(folder, notes=notes), everything)) == 3


def test_looking_shows_how_far_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation.data.broken, "AT_ONCE", 10)
    shown: list[tuple[int, int]] = []
    find_broken(open_dataset(folder), range(36), on_look=lambda done, total: shown.append((done, total)))
    assert shown == [(10, 36), (20, 36), (30, 36), (36, 36)]


@pytest.mark.parametrize(
    "litter", ["__MACOSX/disc/._00.png", "disc/._00.png", ".DS_Store", "disc/Thumbs.db", ".cache/a/1.png"]
)
def test_what_systems_leave_behind_is_no_picture(folder: Path, litter: str) -> None:
    files = open_dataset(folder).files
    (folder / litter).parent.mkdir(parents=True, exist_ok=True)
    (folder / litter).write_bytes(b"junk")
    dataset = open_dataset(folder)
    assert (dataset.files, dataset.classes, dataset.ignored) == (files, CLASSES, (litter,))
