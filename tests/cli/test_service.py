"""Commands that ask a service give what they give here."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

import models
from evaluation import Catalog, Report
from tests.command import Ended, Run
from tests.conftest import picture_bytes, shape_picture, without_times
from tests.server import DEADLINE_S, Server, until
from withstand import Client
from withstand.answers import EvaluationView

EVALUATE = ["evaluate", "tiny", "twin", "--dataset", "shapes", "--images", "9"]


@pytest.fixture
def there(fresh: Server) -> list[str]:
    return ["--server", fresh.url]


@pytest.fixture
def client(fresh: Server) -> Iterator[Client]:
    with Client(fresh.url) as opened:
        yield opened


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "disc.png"
    path.write_bytes(picture_bytes(shape_picture(0, np.random.default_rng(5))))
    return path


def table(text: str) -> str:
    """A printed report but for the facts, which name the machine."""
    return text.partition("\n- ")[0]


def test_evaluate_prints_and_writes_the_same(run: Run, here: list[str], there: list[str], tmp_path: Path) -> None:
    local = run(*EVALUATE, "--device", "cpu", *here)
    remote = run(*EVALUATE, *there, "--out", tmp_path / "rows.csv", "--out", tmp_path / "table.tex")
    assert (remote.status, remote.err) == (0, "")
    assert table(remote.out) == table(local.out)
    assert (tmp_path / "rows.csv").read_text().count("tiny,") == 9 * 6
    assert r"\begin{tabular}" in (tmp_path / "table.tex").read_text()
    reports = [Report.model_validate_json(run(*EVALUATE, *where, "--json").out) for where in (here, there)]
    assert without_times(reports[0])["models"] == without_times(reports[1])["models"]


def test_a_score_below_the_bar_ends_with_1(run: Run, there: list[str], tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    ended = run(*EVALUATE, *there, "--min", "rotation*=1", "--junit", junit)
    assert (ended.status, "below --min: tiny, rotation 90" in ended.err) == (1, True)
    assert "<failure" in junit.read_text()
    assert run(*EVALUATE, *there, "--min", "clean=0").status == 0


def test_a_dry_run_is_estimated_there(run: Run, there: list[str], client: Client) -> None:
    before = len(client.evaluations())
    ended = run(*EVALUATE, "--seed", 7, *there, "--dry-run")
    assert ended.out.startswith("108 rows (0 already computed), ")
    assert len(client.evaluations()) == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([*EVALUATE, "--device", "cpu"], "--device is for work on this machine, but the service at http://"),
        (["models", "--model-dir", "."], "--model-dir is for work on this machine"),
        (["evaluate", "tinny", "--dataset", "shapes"], "422: unknown model 'tinny'. Did you mean 'tiny'?"),
        (["report", "f" * 16], "404: there is no evaluation 'ffffffffffffffff'"),
        (["predict", "tiny", "pyproject.toml"], "422: "),
    ],
    ids=["device", "model folder", "unknown model", "unknown evaluation", "no picture"],
)
def test_what_is_wrong_ends_with_2(run: Run, there: list[str], arguments: list[str], expected: str) -> None:
    ended = run(*arguments, *there)
    assert (ended.status, ended.out) == (2, "")
    assert expected in ended.err


def test_no_service_ends_with_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.options.PATIENCE_S", 0)
    monkeypatch.setenv("WITHSTAND_SERVER", "http://127.0.0.1:9")
    ended = run("models")
    assert (ended.status, ended.out) == (1, "")
    assert "no answer from http://127.0.0.1:9: " in ended.err
    assert run("models", "--server", "localhost").err.startswith("withstand: the address of a service begins with http")


def test_ctrl_c_leaves_the_evaluation_running(
    run: Run, there: list[str], client: Client, fresh: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.control_queue("pause")
    watched, watch = Event(), Client.watch

    def watch_and_tell(self: Client, evaluation_id: str) -> Iterator[EvaluationView]:
        watched.set()
        yield from watch(self, evaluation_id)

    monkeypatch.setattr(Client, "watch", watch_and_tell)

    def press_once_it_waits() -> None:
        assert watched.wait(DEADLINE_S)
        os.kill(os.getpid(), signal.SIGINT)

    press = Thread(target=press_once_it_waits)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background ignores the signal
    press.start()
    try:
        ended = run(*EVALUATE, "--seed", 8, *there)
        press.join()
        (waiting,) = client.queue()["waiting"]
    finally:
        signal.signal(signal.SIGINT, before)
        client.control_queue("resume")
    again = f"withstand report {waiting['evaluation']} --server {fresh.url}"
    assert ended == Ended(
        130, "", f"withstand: evaluation {waiting['evaluation']} goes on at {fresh.url}; see its report with: {again}\n"
    )
    client.job(waiting["evaluation"]).wait()
    assert "tiny" in run(*again.split()[1:]).out


def test_predictions_are_the_same(run: Run, here: list[str], there: list[str], picture: Path) -> None:
    local, remote = (
        json.loads(run("predict", "tiny", picture, picture, "--top-k", 2, "--json", *where).out)
        for where in (here[:2], there)
    )
    assert (remote["model"], remote["version"]) == (local["model"], local["version"])
    for ours, theirs in zip(local["predictions"], remote["predictions"], strict=True):
        assert (theirs["file"], [each["label"] for each in theirs["top"]]) == (
            ours["file"],
            [each["label"] for each in ours["top"]],
        )
        assert theirs["top"][0]["probability"] == pytest.approx(ours["top"][0]["probability"], abs=1e-4)


def test_lists_are_those_of_the_service(
    run: Run, here: list[str], there: list[str], catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WITHSTAND_SERVER", there[1])
    listed = run("models").out
    assert f"\narchitectures: {', '.join(models.names())}\n" in listed
    assert "tiny: resnet_mini, 3 classes, no claimed accuracy\n" in listed
    assert set(json.loads(run("models", "--json").out)["checkpoints"]) > {"tiny", "twin"}
    until(lambda: "shapes: 33 images, 3 classes\n" in run("datasets").out)
    assert {"name": "shapes", "images": 33, "classes": 3} in json.loads(run("datasets", "--json").out)
    checked = run("datasets", "check", "shapes", "--model", "tiny")
    assert checked.status == 0
    assert "shapes: 33 images, 3 classes, SHA-256 " in checked.out
    assert "the classes match those of tiny by name:\n  disc: disc\n" in checked.out
    details = json.loads(run("datasets", "check", "shapes", "--json").out)
    assert sum(details["images_by_class"].values()) == 33 and details["match"] is None
    assert run("datasets", "check", "shapes", "--model", "resnet_mini.fashion_mnist").status == 1
    assert run("datasets", "check", "absent").status == 2
    there_ones = run("presets").out, run("presets", "--json").out
    monkeypatch.delenv("WITHSTAND_SERVER")
    assert there_ones == (run("presets").out, run("presets", "--json").out)


@pytest.fixture(scope="module")
def evaluated(fresh: Server) -> str:
    """An evaluation of both models, who are one network."""
    with Client(fresh.url) as client:
        job = client.evaluate({"models": ["tiny", "twin"], "dataset": "shapes", "images": 12}, preset="rotation-flip")
        job.wait()
        return job.id


def places(fresh: Server) -> list[list[str]]:
    """The service, and the folder of its database."""
    return [["--server", fresh.url], ["--data-dir", str(fresh.service.settings.data_dir)]]


def test_a_report_is_read_from_the_service_and_from_its_folder(
    run: Run, fresh: Server, evaluated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv(
        "WITHSTAND_DATASET_DIRS", json.dumps([str(each) for each in fresh.service.settings.dataset_dirs])
    )
    forms: list[list[str]] = [[], ["--format", "markdown"], ["--json"]]
    asked, read = ([run("report", evaluated, *form, *place).out for form in forms] for place in places(fresh))
    assert asked[:2] == read[:2]
    assert max(map(len, table(asked[0]).splitlines())) <= 80
    assert "Accuracy in percent, n = 12 images" in asked[0]
    assert "| model | clean |" in asked[1]
    assert without_times(Report.model_validate_json(asked[2])) == without_times(Report.model_validate_json(read[2]))
    files = [tmp_path / f"{number}.csv" for number in range(2)]
    for file, place in zip(files, places(fresh), strict=True):
        assert run("report", evaluated, "--out", file, *place) == Ended(0, "", "")
    assert files[0].read_text() == files[1].read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--format", "word"], "unknown report format 'word'"),
        (["--out", "report.word"], "--out report.word: the ending chooses the format; it must be one of .csv"),
    ],
)
def test_a_format_that_is_not_there(
    run: Run, there: list[str], evaluated: str, arguments: list[str], expected: str
) -> None:
    ended = run("report", evaluated, *arguments, *there)
    assert (ended.status, expected in ended.err) == (2, True)


def test_models_are_compared(run: Run, fresh: Server, evaluated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    asked, read = (run("compare", evaluated, *place) for place in places(fresh))
    assert asked == read
    assert (asked.status, asked.err) == (0, "")
    assert asked.out.startswith(f"first:  tiny of {evaluated}\nsecond: twin of {evaluated}\n")
    assert max(map(len, asked.out.splitlines())) <= 80
    (found,) = json.loads(
        run("compare", evaluated, "--models", "twin", "--models", "tiny", "--json", *places(fresh)[0]).out
    )
    assert (found["first"], found["second"]) == (f"twin of {evaluated}", f"tiny of {evaluated}")
    assert [each["difference"] for each in found["conditions"]] == [0.0] * 6


def test_models_that_were_not_evaluated_alike_are_refused_with_the_reason(
    run: Run, fresh: Server, client: Client, evaluated: str
) -> None:
    fewer = client.evaluate({"models": ["tiny"], "dataset": "shapes", "images": 6}, preset="rotation-flip")
    fewer.wait()
    for place in places(fresh):
        refused = run("compare", evaluated, fewer.id, *place)
        assert (refused.status, f"second: twin of {evaluated}" in refused.out) == (2, True), "the others are shown"
        assert "were not evaluated alike: number of images 12 and 6; evaluate both in one run" in refused.err
        listed = json.loads(run("compare", evaluated, fewer.id, "--json", *place).out)
        assert [("problem" in each) for each in listed] == [False, True]
        assert (
            "--models tinny: the evaluations have tiny, twin"
            in run("compare", evaluated, "--models", "tinny", *place).err
        )
        assert "a comparison needs two models, got tiny" in run("compare", fewer.id, *place).err


def test_the_zoo_is_listed_with_accuracy_size_and_licence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    listed = run("zoo").out
    assert max(map(len, listed.splitlines())) <= 80
    facts = json.loads(run("zoo", "--json").out)
    assert {each["name"] for each in facts} == {*Catalog().checkpoints()}
    lines = {line.split()[0]: line for line in listed.splitlines() if " MB" in line}
    for each in facts:
        line = lines[each["name"].replace(".fashion_mnist", "")]
        assert f" {100 * each['clean_accuracy']:.1f} %" in line
        assert line.rstrip().endswith(f" {each['size_bytes'] / 1e6:.1f} MB")
    assert "Apache-2.0" in listed
