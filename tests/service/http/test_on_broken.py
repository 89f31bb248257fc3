"""What to do about broken pictures, asked on the command line and over HTTP."""

import zipfile
from pathlib import Path

import pytest

from evaluation import Report
from evaluation.reports.formats.methods import methods
from service.settings import Settings
from tests.command import Run
from tests.server import serving, until


@pytest.fixture
def mixed(shapes_zip: Path, tmp_path: Path) -> Path:
    """The shapes with one broken picture among them, in a folder of data sets."""
    path = tmp_path / "sets" / "mixed"
    with zipfile.ZipFile(shapes_zip) as archive:
        archive.extractall(path)
    (path / "disc" / "00.png").write_bytes(b"junk")
    return path


def test_the_command_fails_or_skips(run: Run, here: list[str], mixed: Path) -> None:
    command = ["evaluate", "tiny", "--dataset", mixed, "--data-dir", "stored", *here]
    ended = run(*command)
    assert (ended.status, ended.out) == (2, "")
    assert "mixed: 1 of the 33 selected pictures cannot be used: disc/00.png: not a picture" in ended.err
    assert "--on-broken skip" in ended.err
    ended = run(*command, "--on-broken", "skip", "--json")
    assert ended.status == 0
    report = Report.model_validate_json(ended.out)
    assert [each.file for each in report.plan.skipped] == ["disc/00.png"]
    assert "on 32 images of mixed" in methods(report)
    assert "1 broken picture was skipped" in methods(report)
    ended = run(*command, "--on-broken", "ignore")
    assert ended.status == 2
    assert "on_broken" in ended.err


def test_notes_are_kept_with_the_results(run: Run, here: list[str], mixed: Path) -> None:
    run("evaluate", "tiny", "--dataset", mixed, "--data-dir", "stored", "--on-broken", "skip", *here)
    (note,) = Path("stored/notes").iterdir()
    assert '"not a picture' in note.read_text()
    assert not Path(".withstand").exists()


def test_without_broken_pictures_nothing_is_said_of_them(run: Run, here: list[str]) -> None:
    ended = run("evaluate", "tiny", "--dataset", "shapes", "--images", 3, "--on-broken", "skip", "--json", *here)
    assert "skipped" not in methods(Report.model_validate_json(ended.out))


def test_a_request_fails_or_skips(settings: Settings, mixed: Path, tmp_path: Path) -> None:
    changed = {"dataset_dirs": (mixed.parent,), "data_dir": tmp_path / "data"}
    with serving(settings.model_copy(update=changed)) as server:
        body = {"models": ["tiny"], "dataset": "mixed", "conditions": [{"kind": "clean"}]}
        answer = server.http.post("/v1/evaluations", json=body)
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert "disc/00.png: not a picture" in answer.json()["detail"]
        assert [each["field"] for each in answer.json()["errors"]] == ["dataset"]
        answer = server.http.post("/v1/evaluations", json=body | {"on_broken": "skip"})
        assert answer.status_code == 202, answer.text
        where = f"/v1/evaluations/{answer.json()['id']}/report"
        until(lambda: server.http.get(where).json()["complete"])
        assert [each["file"] for each in server.http.get(where).json()["plan"]["skipped"]] == ["disc/00.png"]
        assert "1 broken picture" in server.http.get(where, params={"format": "markdown"}).text
        answer = server.http.post("/v1/evaluations", json=body | {"on_broken": "ignore"})
        assert answer.status_code == 422
        assert [each["field"] for each in answer.json()["errors"]] == ["on_broken"]
