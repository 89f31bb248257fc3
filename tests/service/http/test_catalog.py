"""What lies in the folders can be broken: the rest is served, and asking for the broken thing tells why."""

import os
import shutil
from pathlib import Path

from service.settings import Settings
from tests.conftest import Put
from tests.server import serving, until
from tests.service.pictures import DISC, URL, labels

BROKEN = {
    "cardless": "the card cardless.json is not usable: classes: Field required",
    "folder": "the card folder.json cannot be read: Is a directory",
    "gone": "No such file or directory",
}


def test_names_that_are_not_utf8_are_served_with_their_bytes(
    settings: Settings, put_checkpoint: Put, shapes_zip: Path, tmp_path: Path
) -> None:
    for name in (b"odd\xff", b"other\xff"):
        put_checkpoint(tmp_path, os.fsdecode(name))
    (tmp_path / os.fsdecode(b"other\xff.json")).write_text("{")
    (tmp_path / os.fsdecode(b"junk\xff.zip")).write_bytes(b"junk")
    (tmp_path / os.fsdecode(b"sound\xff.zip")).write_bytes(shapes_zip.read_bytes())
    changed = {"model_dirs": (tmp_path,), "dataset_dirs": (tmp_path,), "data_dir": tmp_path / "data"}
    with serving(settings.model_copy(update=changed)) as server:

        def listed(what: str) -> dict[str, dict[str, object]]:
            return {each["name"]: each for each in server.http.get(f"/v1/{what}").json()}

        assert listed("models")[r"odd\xff"]["architecture"] == "resnet_mini"
        assert "the card other\\xff.json is not usable" in str(listed("models")[r"other\xff"]["problem"])
        until(lambda: "problem" in listed("datasets")[r"junk\xff"])
        until(lambda: listed("datasets")[r"sound\xff"]["images"] == 33)
        shown = server.http.get("/datasets")
        assert shown.status_code == 200
        assert r"junk\xff.zip is not a readable zip file" in shown.text
        assert server.http.post("/v2/repository/index").status_code == 200
        assert server.http.get("/readyz").status_code == 200


def test_a_broken_model_and_a_broken_data_set_fail_alone(
    settings: Settings, put_checkpoint: Put, shapes_zip: Path, tmp_path: Path
) -> None:
    put_checkpoint(tmp_path, "cardless").with_suffix(".json").write_text('{"architecture": "resnet_mini"}')
    put_checkpoint(tmp_path, "narrow", options={"widths": [4, 4, 4], "blocks": 1})
    put_checkpoint(tmp_path, "folder").with_suffix(".json").unlink()
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "nowhere.safetensors")
    shutil.copy(tmp_path / "narrow.json", tmp_path / "gone.json")
    (tmp_path / "junk.zip").write_bytes(b"junk")
    changed = {"model_dirs": (*settings.model_dirs, tmp_path), "dataset_dirs": (shapes_zip.parent, tmp_path)}
    with serving(settings.model_copy(update=changed | {"data_dir": tmp_path / "data"})) as server:
        http = server.http
        listed = {model["name"]: model for model in http.get("/v1/models").json()}
        assert {"tiny", "narrow", *BROKEN} <= listed.keys()
        shown = http.get("/models").text
        for name, problem in BROKEN.items():
            assert set(listed[name]) == {"name", "problem"}
            assert listed[name]["problem"].startswith(problem)
            assert f"cannot be used: {problem}" in shown
        assert all("problem" not in model for name, model in listed.items() if name not in BROKEN)
        assert http.get("/readyz").status_code == 200
        assert "shapes" in {dataset["name"] for dataset in http.get("/v1/datasets").json()}

        def detail(models: list[str], dataset: str, field: str) -> str:
            answer = http.post("/v1/evaluations", json={"models": models, "dataset": dataset})
            assert answer.status_code == 422
            assert [error["field"] for error in answer.json()["errors"]] == [field]
            return answer.json()["detail"]

        assert "the card cardless.json is not usable: classes: Field required" in http.get("/v1/models/cardless").text
        assert "classes: Field required" in detail(["cardless"], "shapes", "models")
        assert "narrow.safetensors does not fit resnet_mini" in detail(["tiny", "narrow"], "shapes", "models")
        assert "junk.zip is not a readable zip file" in detail(["tiny"], "junk", "dataset")
        assert http.get("/v1/evaluations").json()["evaluations"] == []


def test_two_files_of_one_name_make_that_name_unusable_and_no_other(
    settings: Settings, put_checkpoint: Put, shapes_zip: Path, tmp_path: Path
) -> None:
    path = put_checkpoint(tmp_path, "double")
    shutil.copy(path, path.with_suffix(".pth"))
    shutil.copy(shapes_zip, tmp_path / "pair.zip")
    (tmp_path / "pair").mkdir()
    changed = {"model_dirs": (*settings.model_dirs, tmp_path), "dataset_dirs": (shapes_zip.parent, tmp_path)}
    with serving(settings.model_copy(update=changed | {"data_dir": tmp_path / "data"})) as server:
        http = server.http

        def problem(what: str, name: str) -> str:
            (listed,) = (each for each in http.get(f"/v1/{what}").json() if each["name"] == name)
            return listed.get("problem", "")

        both = f"two checkpoints are named 'double': {path.with_suffix('.pth')} and {path}"
        assert problem("models", "double").startswith(both)
        until(lambda: problem("datasets", "pair"))
        assert f"{tmp_path / 'pair'} and {tmp_path / 'pair.zip'}" in problem("datasets", "pair")
        for url in ("/v1/models/double", "/v2/models/double"):
            answer = http.get(url)
            assert (answer.status_code, answer.json()["detail"].startswith(both)) == (422, True)
        assert both in http.delete("/v1/models/double").json()["detail"]
        bad = http.post("/v1/evaluations", json={"models": ["tiny"], "dataset": "pair"})
        assert "two data sets are named 'pair'" in bad.json()["detail"]
        assert labels(http.post(URL, content=DISC)) == ["disc"]
        assert http.post("/v1/evaluations", json={"models": ["tiny"], "dataset": "shapes"}).status_code == 202
        for url in ("/readyz", "/", "/models", "/datasets", "/v1/models/tiny", "/v2/models/tiny"):
            assert http.get(url).status_code == 200
