"""What lies in the folders can be broken: the rest is served, and asking for the broken thing tells why."""

from pathlib import Path

from service.settings import Settings
from tests.conftest import Put
from tests.service.conftest import serving


def test_a_broken_model_and_a_broken_data_set_fail_alone(
    settings: Settings, put_checkpoint: Put, shapes_zip: Path, tmp_path: Path
) -> None:
    put_checkpoint(tmp_path, "cardless").with_suffix(".json").write_text('{"architecture": "resnet_mini"}')
    put_checkpoint(tmp_path, "narrow", options={"widths": [4, 4, 4], "blocks": 1})
    (tmp_path / "junk.zip").write_bytes(b"junk")
    changed = {"model_dirs": (*settings.model_dirs, tmp_path), "dataset_dirs": (shapes_zip.parent, tmp_path)}
    with serving(settings.model_copy(update=changed | {"data_dir": tmp_path / "data"})) as server:
        http = server.http
        assert {"tiny", "narrow"} <= {model["name"] for model in http.get("/v1/models").json()}
        assert "shapes" in {dataset["name"] for dataset in http.get("/v1/datasets").json()}
        assert http.get("/").status_code == 200

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
