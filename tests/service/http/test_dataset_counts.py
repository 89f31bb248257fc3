"""The list of data sets answers while they are counted."""

from pathlib import Path
from threading import Event

import pytest

import evaluation.catalog
from evaluation import ImageFolder
from service.settings import Settings
from tests.server import serving, until


def test_the_list_does_not_wait_for_counting(
    settings: Settings, shapes_zip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_open, opened = Event(), evaluation.catalog._open

    def slowly(*arguments: object) -> ImageFolder:
        may_open.wait(30)
        return opened(*arguments)

    monkeypatch.setattr(evaluation.catalog, "_open", slowly)
    (tmp_path / "junk.zip").write_bytes(b"junk")
    own = settings.model_copy(update={"data_dir": tmp_path / "data", "dataset_dirs": (shapes_zip.parent, tmp_path)})

    with serving(own) as server:

        def listed() -> dict[str, dict[str, object]]:
            return {each["name"]: each for each in server.http.get("/v1/datasets").json()}

        assert listed()["shapes"] == {
            "name": "shapes",
            "images": None,
            "classes": None,
            "sha256": None,
            "size_bytes": None,
        }
        assert "counting" in server.http.get("/datasets").text
        may_open.set()
        until(lambda: listed()["shapes"]["images"] == 33 and "problem" in listed()["junk"])
        assert set(listed()["junk"]) == {"name", "problem"}
        assert "junk.zip is not a readable zip file" in str(listed()["junk"]["problem"])
        assert "cannot be used: junk.zip is not a readable zip file" in server.http.get("/datasets").text
        assert listed()["shapes"]["classes"] == ["disc", "square", "stripes"]
    may_open.clear()
    with serving(own) as server:
        assert listed()["shapes"]["images"] == 33, "it is in the notes"
        may_open.set()
