"""The command: what it prints where, and how it ends."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import attacks
import evaluation
import models
from evaluation import Catalog, EvaluationSpec, Report
from service.http.formats import SUFFIXES
from service.serving.predictions import Predictions
from tests.command import Ended, Run
from tests.conftest import Put, picture_bytes, shape_picture


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{label}.png" for label in range(3)]
    for label, path in enumerate(paths):
        path.write_bytes(picture_bytes(shape_picture(label, np.random.default_rng(5))))
    return paths


def test_evaluate_prints_the_table_and_what_one_must_know(run: Run, here: list[str], catalog: Catalog) -> None:
    ended = run("evaluate", "tiny", "twin", "--dataset", "shapes", "--images", 9, "--device", "cpu", *here)
    assert (ended.status, ended.err) == (0, "")
    spec = EvaluationSpec(
        models=("tiny", "twin"), dataset="shapes", images=9, conditions=evaluation.preset("rotation-flip")
    )
    report = evaluation.evaluate(spec, catalog=catalog, device="cpu")
    for model in report.models:
        assert model.model in ended.out
        for condition in model.conditions:
            assert condition.score is not None
            assert f"{100 * condition.score.value:.1f}" in ended.out
            assert condition.title.split()[-1] in ended.out
    assert ended.out.startswith("Accuracy in percent, n = 9 images; --intervals adds")
    for fact in report.facts():
        assert " ".join(fact.split()) in " ".join(ended.out.split())


def test_many_conditions_are_rows(run: Run, here: list[str]) -> None:
    ended = run("evaluate", "tiny", "twin", "--dataset", "shapes", "--images", 3, "--preset", "angles", *here)
    lines = [line for line in ended.out.splitlines() if line.startswith("rotation ")]
    assert len(lines) == 23
    assert all(len(line.split()) == 4 for line in lines), "a title of two words, and a score per model"


def test_intervals_are_printed_when_asked_for(run: Run, here: list[str]) -> None:
    ended = run("evaluate", "tiny", "--dataset", "shapes", "--images", 9, "--preset", "san-pgd", "--intervals", *here)
    assert re.search(r"^tiny +\d+\.\d \[\d+\.\d, \d+\.\d\]  ", ended.out, flags=re.MULTILINE)


def test_evaluate_as_json_is_the_report(run: Run, here: list[str]) -> None:
    arguments = ("--preset", "san-pgd", "--preset", "rotation-flip", "--seed", 3, "--json")
    ended = run("evaluate", "tiny", "--dataset", "shapes", "--images", 3, *arguments, *here)
    assert (ended.status, ended.err) == (0, "")
    report = Report.model_validate_json(ended.out)
    assert report.complete
    assert report.plan.spec.seed == 3
    titles = [each.title for each in (*evaluation.preset("san-pgd"), *evaluation.preset("rotation-flip")[1:])]
    assert [each.title for each in report.models[0].conditions] == titles


def test_presets_attack_within_the_radius_that_is_asked_for(run: Run, here: list[str]) -> None:
    arguments = ("--preset", "san-pgd", "--preset", "rotation-flip", "--eps", "128/255", "--norm", "L2", "--json")
    ended = run("evaluate", "tiny", "--dataset", "shapes", "--images", 3, *arguments, *here)
    titles = [each.title for each in Report.model_validate_json(ended.out).plan.spec.conditions]
    assert titles[:3] == ["clean", "PGD-2 L2 128/255 to random", "PGD-4 L2 128/255 to random"]
    assert titles[3:] == [each.title for each in evaluation.preset("rotation-flip")[1:]]


def test_evaluate_writes_every_form(run: Run, here: list[str], tmp_path: Path) -> None:
    paths = [tmp_path / f"report{suffix}" for suffix in SUFFIXES]
    outs = [argument for path in paths for argument in ("--out", path)]
    ended = run("evaluate", "tiny", "--dataset", "shapes", "--images", 3, "--preset", "demo", *outs, *here)
    assert (ended.status, ended.err) == (0, "")
    begins = {path.suffix: path.read_bytes()[:40] for path in paths}
    assert Report.model_validate_json((tmp_path / "report.json").read_bytes()).complete
    assert begins[".md"].startswith(b"| model | clean |")
    assert begins[".html"].lower().startswith(b"<!doctype html>")
    assert begins[".tex"].startswith(rb"\begin{tabular}")
    assert begins[".txt"].startswith(b"We evaluated 1 model on 3 images of shap")
    assert begins[".csv"].startswith(b"model,condition,file,index")
    assert begins[".parquet"].startswith(b"PAR1")


@pytest.mark.parametrize(("bar", "status"), [(0.0, 0), (0.99, 1)])
def test_a_gate_ends_with_1_below_the_bar(run: Run, here: list[str], tmp_path: Path, bar: float, status: int) -> None:
    junit = tmp_path / "out.xml"
    arguments = ("--preset", "san-pgd", "--min", "clean=0.9", "--min", f"PGD*={bar}", "--junit", junit)
    ended = run("evaluate", "tiny", "--dataset", "shapes", "--images", 9, *arguments, *here)
    assert ended.status == status
    assert f'failures="{2 * status}"' in junit.read_text()
    assert ("below --min: tiny, PGD-2 Linf 8/255 to random" in ended.err) == bool(status)
    assert "PGD-4" in ended.out, "the table is printed either way"


def test_a_dry_run_only_estimates(run: Run, here: list[str]) -> None:
    arguments = ("evaluate", "tiny", "--dataset", "shapes", "--images", 9, "--preset", "san-pgd", "--dry-run", *here)
    found = evaluation.Estimate.model_validate_json(run(*arguments, "--json").out)
    passes = 1 + (1 + 3 * 2 + 1) + (1 + 3 * 4 + 1)  # clean; before, three a step and after
    assert (found.images, found.images_done, found.passes) == (27, 0, 9 * passes)
    assert 0 < found.seconds < 60
    ended = run(*arguments)
    assert ended.status == 0
    assert ended.out.startswith(
        f"27 rows (0 already computed), {9 * passes} passes of one image through a model, at most 0:00:0"
    )
    run(*[each for each in arguments if each != "--dry-run"])
    done = evaluation.Estimate.model_validate_json(run(*arguments, "--json").out)
    assert (done.images_done, done.passes, done.seconds) == (27, 0, 0)


def test_predict_names_the_classes_of_each_picture(run: Run, here: list[str], pictures: list[Path]) -> None:
    ended = run("predict", "tiny", *pictures, "--top-k", 2, *here[:2])
    assert (ended.status, ended.err) == (0, "")
    lines = ended.out.splitlines()
    for line, path, label in zip(lines, pictures, ("disc", "square", "stripes"), strict=True):
        assert line.startswith(f"{path}: {label} ")
        assert line.count(",") == 1


def test_predict_as_json_is_what_the_service_answers(run: Run, here: list[str], pictures: list[Path]) -> None:
    ended = run("predict", "tiny", *pictures, "--json", *here[:2])
    found = Predictions.model_validate_json(ended.out)
    assert (found.model, [each.file for each in found.predictions]) == ("tiny", list(map(str, pictures)))
    assert [each.top[0].label for each in found.predictions] == ["disc", "square", "stripes"]
    assert all(sum(score.probability for score in each.top) == pytest.approx(1) for each in found.predictions)


def test_models_lists_checkpoints_and_architectures(run: Run, here: list[str], catalog: Catalog) -> None:
    ended = run("models", *here[:2])
    assert "tiny: resnet_mini, 3 classes, no claimed accuracy\n" in ended.out
    assert f"architectures: {', '.join(models.names())}\n" in ended.out
    as_json = json.loads(run("models", "--json", *here[:2]).out)
    assert as_json["architectures"] == models.names()
    assert as_json["attacks"] == attacks.attack_names()
    card = models.ModelCard.model_validate(as_json["checkpoints"]["tiny"])
    assert card == catalog.checkpoint("tiny").card()


BROKEN_CARDS = {
    "{": "the card broken.json is not usable: ",
    '{"classes": ["cat"]}': "the card broken.json is not usable: architecture: Field required",
}


@pytest.mark.parametrize("text", BROKEN_CARDS)
def test_models_lists_the_others_beside_one_with_a_broken_card(
    run: Run, put_checkpoint: Put, tmp_path: Path, text: str
) -> None:
    put_checkpoint(tmp_path, "sound")
    put_checkpoint(tmp_path, "broken").with_suffix(".json").write_text(text)
    ended = run("models", "--model-dir", tmp_path)
    assert (ended.status, ended.err) == (0, "")
    assert "\nsound: resnet_mini, 3 classes" in ended.out
    assert f"\nbroken: cannot be used: {BROKEN_CARDS[text]}" in ended.out
    as_json = json.loads(run("models", "--model-dir", tmp_path, "--json").out)
    assert "sound" in as_json["checkpoints"]
    assert as_json["problems"].keys() == {"broken"}


BAD: dict[str, tuple[list[str], str]] = {
    "an unknown model": (["evaluate", "tinny", "--dataset", "shapes"], "unknown model 'tinny'. Did you mean 'tiny'?"),
    "an unknown data set": (["evaluate", "tiny", "--dataset", "shape"], "unknown data set 'shape'. Did you mean"),
    "an unknown preset": (["evaluate", "tiny", "--dataset", "shapes", "--preset", "pgd"], "unknown preset 'pgd'"),
    "a bar without an attack": (
        ["evaluate", "tiny", "--dataset", "shapes", "--min", "pgd*=0.4"],
        "no condition fits 'pgd*'",
    ),
    "a radius without an attack": (
        ["evaluate", "tiny", "--dataset", "shapes", "--eps", "4/255"],
        "preset that attacks",
    ),
    "a radius for several": (
        ["evaluate", "tiny", "--dataset", "shapes", "--preset", "curve", "--eps", "4/255"],
        "preset curve does not attack within one budget",
    ),
    "a radius that is none": (
        ["evaluate", "tiny", "--dataset", "shapes", "--preset", "pgd-20", "--eps", "4/x"],
        "eps: expected a number or a fraction such as 8/255, got '4/x'",
    ),
    "a norm without a radius": (
        ["evaluate", "tiny", "--dataset", "shapes", "--preset", "pgd-20", "--norm", "L2"],
        "--eps",
    ),
    "a huge radius": (
        ["evaluate", "tiny", "--dataset", "shapes", "--preset", "pgd-20", "--norm", "L2", "--eps", "1e308"],
        "eps: Input should be less than or equal to",
    ),
    "a report in a folder that is none": (
        ["evaluate", "tiny", "--dataset", "shapes", "--out", "missing/report.html"],
        "there is no folder missing",
    ),
    "a form that is none": (
        ["evaluate", "tiny", "--dataset", "shapes", "--out", "x.pdf"],
        "it must be one of .csv, .html, .json",
    ),
    "a precision that is none": (["evaluate", "tiny", "--dataset", "shapes", "--precision", "int8"], "precision"),
    "no images": (["evaluate", "tiny", "--dataset", "shapes", "--images", "0"], "images: Input should be greater"),
    "too many images": (["evaluate", "tiny", "--dataset", "shapes", "--images", "34"], "34 images asked for"),
    "a model twice": (["evaluate", "tiny", "tiny", "--dataset", "shapes"], "models: named twice: tiny"),
    "a negative seed": (["evaluate", "tiny", "--dataset", "shapes", "--seed", "-1"], "seed: Input should be greater"),
    "a model to predict": (["predict", "tinny", "x.png"], "unknown model 'tinny'"),
    "no such picture": (["predict", "tiny", "missing.png"], "missing.png"),
    "a device that is none": (["predict", "tiny", "x.png", "--device", "abacus"], "abacus"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_ends_with_2_and_a_line_on_standard_error(run: Run, here: list[str], case: str) -> None:
    arguments, message = BAD[case]
    ended = run(*arguments, *(here if arguments[0] == "evaluate" else here[:2]))
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("withstand: ")
    assert message in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("data", [b"", b"no picture"])
def test_a_picture_that_is_none_is_named(run: Run, here: list[str], tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(data)
    ended = run("predict", "tiny", path, *here[:2])
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(f"withstand: {path}: ")


@pytest.mark.parametrize("arguments", [["--host", "0.0.0.0"], ["--port", "65536"], ["--port", "many"]], ids=str)
def test_serve_refuses_what_it_must(run: Run, arguments: list[str]) -> None:
    ended = run("serve", *arguments)
    assert (ended.status, ended.out) == (2, "")
    assert "listening on 0.0.0.0 needs API keys" in ended.err or "port" in ended.err


@pytest.mark.parametrize("arguments", [["evaluate"], ["evaluate", "tiny"], ["predict", "tiny"], ["dance"], ["--wrong"]])
def test_a_misused_command_ends_with_2(run: Run, arguments: list[str]) -> None:
    ended = run(*arguments)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err


def test_the_installed_command_is_this_one(here: list[str]) -> None:
    command = shutil.which("withstand", path=Path(sys.executable).parent)
    assert command is not None
    arguments = ["predict", "tinny", "x.png", *here[:2]]
    ended = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("withstand: unknown model 'tinny'. Did you mean 'tiny'?")


@pytest.fixture
def added(run: Run, tmp_path: Path, put_checkpoint: Put) -> Path:
    """The folder of a service to which the model `mine` was added by the command."""
    card = put_checkpoint(tmp_path, "trained").with_suffix(".json")
    data = tmp_path / "data"
    ended = run(
        "models", "add", tmp_path / "trained.safetensors", "--card", card, "--yes", "--name", "mine", "--data-dir", data
    )
    assert ended.status == 0, ended.err
    return data


@pytest.mark.parametrize("given", ["flag", "environment"])
def test_every_command_finds_what_was_added(
    run: Run, added: Path, catalog: Catalog, pictures: list[Path], given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(added.parent)
    folder, data = (["--data-dir", added], ["--dataset-dir", catalog.dataset_folders[0]])
    if given == "environment":
        monkeypatch.setenv("WITHSTAND_DATA_DIR", str(added))
        monkeypatch.setenv("WITHSTAND_DATASET_DIRS", json.dumps([str(catalog.dataset_folders[0])]))
        folder, data = [], []
    assert "\nmine: resnet_mini, 3 classes" in run("models", *folder).out
    assert ": disc " in run("predict", "mine", pictures[0], *folder).out
    refused = run("explain", "mine", pictures[0], "--out", added / "x.png", *folder)
    assert "attention" in refused.err, "the model is found, and has none"
    ended = run("evaluate", "mine", "--dataset", "shapes", "--images", 3, *folder, *data)
    assert ended.status == 0, ended.err
    assert any((added / "results").iterdir())
    assert not (added.parent / ".withstand").exists()


def test_a_flag_goes_before_the_environment(
    run: Run, added: Path, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WITHSTAND_MODEL_DIRS", json.dumps([str(catalog.model_folders[0])]))
    monkeypatch.setenv("WITHSTAND_DATA_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("WITHSTAND_HOST", "0.0.0.0")  # of the service; no command here listens
    listed = run("models", "--data-dir", added).out
    assert "\nmine: " in listed
    assert "\ntiny: " in listed
    assert "\ntiny: " not in run("models", "--data-dir", added, "--model-dir", tmp_path).out


def test_a_folder_that_is_named_twice_is_searched_once(run: Run, added: Path) -> None:
    assert run("models", "--data-dir", added, "--model-dir", added / "models").out.count("\nmine: ") == 1


def test_what_was_added_can_be_removed_and_nothing_else(run: Run, added: Path) -> None:
    refused = run("models", "rm", "resnet_mini.fashion_mnist", "--data-dir", added)
    assert (refused.status, refused.out) == (2, "")
    assert "only added models can be removed" in refused.err
    assert run("models", "rm", "mine", "--data-dir", added) == Ended(0, "removed mine\n", "")
    assert [*(added / "models").iterdir()] == []
    assert "unknown model 'mine'" in run("models", "rm", "mine", "--data-dir", added).err
