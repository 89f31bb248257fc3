"""Through the server a picture is decoded once, however many models, conditions and device processes there are."""

from pathlib import Path

import pytest

import evaluation.catalog
import evaluation.data.datasets
import evaluation.plan
from service.settings import Settings
from tests.server import serving, until

COUNTING = """
import os
import common.pictures
opener = common.pictures.open_picture
def counting(data, **limits):
    with open(os.environ["DECODED"], "a") as file:
        file.write("picture\\n")
    return opener(data, **limits)
common.pictures.open_picture = counting
"""
"""Every Python process runs it before anything else."""

SPEC = {
    "models": ["tiny", "twin"],
    "dataset": "shapes",
    "conditions": [
        {"kind": "clean"},
        {"kind": "transform", "name": "flip", "parameters": {"direction": "left_right"}},
    ],
}


@pytest.mark.usefixtures("spawned")
def test_device_processes_read_what_planning_has_decoded(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := tmp_path / "site").mkdir()
    (folder / "sitecustomize.py").write_text(COUNTING)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("DECODED", str(log := tmp_path / "decoded"))
    monkeypatch.setattr(evaluation.plan, "SHARD_IMAGES", 8)
    here: list[bytes] = []
    opener = evaluation.data.datasets.open_picture
    monkeypatch.setattr(evaluation.data.datasets, "open_picture", lambda data: (here.append(data), opener(data))[1])
    evaluation.catalog._open.__wrapped__.cache_clear()
    own = settings.model_copy(update={"data_dir": tmp_path / "data", "devices": ("cpu:0", "cpu:1")})
    with serving(own) as server:
        done = server.http.post("/v1/evaluations", json=SPEC)
        assert done.status_code == 202, done.text
        where = done.headers["Location"]
        assert len(here) == 33
        until(lambda: server.http.get(where).json()["status"] in ("done", "failed"))
        assert server.http.get(where).json()["status"] == "done"
        assert not log.exists(), "no device process decoded anything"
        for file in (own.data_dir / "pixels").iterdir():
            file.unlink()
        where = server.http.post("/v1/evaluations", json=SPEC | {"seed": 1}).headers["Location"]
        until(lambda: server.http.get(where).json()["status"] in ("done", "failed"))
        assert server.http.get(where).json()["status"] == "done"
    decoded = log.read_text().split()
    assert len(here) == 33
    assert 33 <= len(decoded) < 2 * 33, "now they had to, and it was counted"
