"""How models are served: versions, settings, precision, memory, keys."""

import os
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

import models
from service.serving.deployments import Deployment, Deployments
from service.settings import Settings
from tests.conftest import Put
from tests.server import Server, serving, until
from tests.service.pictures import DISC, SQUARE, refusal

ADMIN = {"X-API-Key": "admin"}
USER = {"X-API-Key": "user"}


@pytest.fixture
def folder(tmp_path: Path, put_checkpoint: Put) -> Path:
    """Three versions of `mine`: the first as trained, the second with the classes of its logits turned, the tenth as trained."""
    made = tmp_path / "checkpoints"
    made.mkdir()
    put_checkpoint(made, "mine")
    put_checkpoint(made, "mine@10")
    path = put_checkpoint(made, "mine@2", sha256=None)
    turned = {name: value.roll(1, 0) if name.startswith("fc.") else value for name, value in load_file(path).items()}
    save_file(turned, path)
    return made


@pytest.fixture
def own(settings: Settings, folder: Path, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"data_dir": tmp_path / "data", "model_dirs": (*settings.model_dirs, folder)})


@pytest.fixture
def server(own: Settings) -> Iterator[Server]:
    with serving(own) as running:
        yield running


def label(answer: httpx.Response) -> tuple[str, str]:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return body["version"], body["predictions"][0]["top"][0]["label"]


def configure(http: httpx.Client, name: str = "mine", **settings: Any) -> httpx.Response:
    return http.put(f"/v1/models/{name}/serving", json=settings)


def test_a_name_has_versions_and_the_latest_answers_unless_another_is_the_default(server: Server) -> None:
    http = server.http
    assert label(http.post("/v1/models/mine/predict", content=DISC)) == ("10", "disc")
    assert label(http.post("/v1/models/mine@2/predict", content=DISC)) == ("2", "square")
    assert label(http.post("/v1/models/mine@1/predict", content=DISC)) == ("1", "disc")
    view = configure(http, default_version="2").json()
    assert (view["default_version"], [each["version"] for each in view["versions"]]) == ("2", ["1", "2", "10"])
    assert label(http.post("/v1/models/mine/predict", content=DISC)) == ("2", "square")
    assert label(http.post("/v1/models/mine@10/predict", content=DISC)) == ("10", "disc")
    assert http.get("/v1/models/mine").json()["name"] == "mine@2"


def test_unknown_versions_are_told_what_there_is(server: Server) -> None:
    body = refusal(server.http.post("/v1/models/mine@3/predict", content=DISC), 404)
    assert "unknown version of mine '3'" in body["detail"]
    assert "1, 10, 2" in body["detail"]
    assert "unknown version" in refusal(configure(server.http, default_version="7"), 404)["detail"]


def test_two_checkpoints_of_one_version_are_refused(server: Server, folder: Path, put_checkpoint: Put) -> None:
    put_checkpoint(folder, "mine@1")
    assert "both version 1" in refusal(server.http.post("/v1/models/mine/predict", content=DISC), 422)["detail"]


def test_a_new_version_answers_as_soon_as_it_is_there(server: Server, folder: Path, put_checkpoint: Put) -> None:
    http = server.http
    assert label(http.post("/v1/models/mine/predict", content=DISC))[0] == "10"
    put_checkpoint(folder, "mine@11")
    assert label(http.post("/v1/models/mine/predict", content=DISC))[0] == "11"


def test_settings_hold_and_survive_a_restart(own: Settings) -> None:
    with serving(own) as first:
        assert configure(first.http, top_k=1, max_batch=2, warm=True).status_code == 200
    with serving(own) as second:
        until(lambda: second.http.get("/v1/models/mine/ready").status_code == 200)  # nobody asked for a prediction
        prediction = second.http.post("/v1/models/mine/predict", content=DISC).json()["predictions"][0]
        assert len(prediction["top"]) == 1
        assert second.http.get("/v1/models/mine/serving").json()["settings"] == {
            "default_version": None,
            "precision": "float32",
            "max_batch": 2,
            "top_k": 1,
            "cuda_graphs": True,
            "decoder": "cpu",
            "device": None,
            "warm": True,
        }


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"precision": "int4"}, "precision"),
        ({"max_batch": 0}, "max_batch"),
        ({"top_k": 0}, "top_k"),
        ({"tok_k": 5}, "tok_k"),
        ({"device": "cuda:99"}, "settings.device"),
        ({"decoder": "gpu"}, "decoder"),
        ({"decoder": "nvjpeg"}, "settings.decoder"),
        ({"cuda_graphs": 1}, "cuda_graphs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(server: Server, given: dict[str, Any], field: str) -> None:
    assert field in refusal(configure(server.http, **given), 422)["detail"]
    assert server.http.get("/v1/models/mine/serving").json()["settings"]["top_k"] == 5


def test_a_broken_settings_file_is_named(own: Settings) -> None:
    file = own.data_dir / "serving" / "mine.json"
    file.parent.mkdir(parents=True)
    file.write_text("{")
    with serving(own) as running:
        assert "mine.json" in refusal(running.http.post("/v1/models/mine/predict", content=DISC), 422)["detail"]
        assert running.http.post("/v1/models/tiny/predict", content=DISC).status_code == 200


def test_another_precision_is_tried_on_images_that_are_not_broken(
    settings: Settings, shapes_zip: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.zip").write_bytes(b"junk")
    (tmp_path / "b").mkdir()
    with zipfile.ZipFile(shapes_zip) as archive:
        archive.extractall(tmp_path / "b")
    (tmp_path / "b" / "disc" / "broken.png").write_bytes(b"junk")
    changed = {"dataset_dirs": (tmp_path,), "data_dir": tmp_path / "data"}
    with serving(settings.model_copy(update=changed)) as own:
        answer = own.http.put("/v1/models/tiny/serving", json={"precision": "bfloat16"})
        assert answer.status_code == 200, answer.text
        agreement = answer.json()["agreement"]
        assert (agreement["dataset"], agreement["agreement"]["n"]) == ("b", 33)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_another_precision_is_admitted_by_its_agreement(server: Server, precision: str) -> None:
    view = configure(server.http, precision=precision).json()
    agreement = view["agreement"]
    assert (agreement["precision"], agreement["dataset"], agreement["agreement"]["n"]) == (precision, "shapes", 33)
    assert agreement["agreement"]["value"] >= 0.98
    assert agreement["speedup"] > 0
    assert label(server.http.post("/v1/models/mine/predict", content=DISC)) == ("10", "disc")
    assert view["versions"][2]["loaded_on"] == []
    (runner,) = [queue.loaded.result() for queue in server.service.scheduler.predictors["cpu"]._queues.values()]
    assert {each.dtype for each in runner.classifier.network.parameters()} == {getattr(torch, precision)}


def test_a_precision_that_changes_answers_is_refused(server: Server, folder: Path, put_checkpoint: Put) -> None:
    """Logits near 10,000 differ by less than bfloat16 can tell there."""
    path = put_checkpoint(folder, "offset", sha256=None)
    tensors = load_file(path)
    (bias,) = [name for name, value in tensors.items() if name.startswith("fc") and value.ndim == 1]
    save_file(tensors | {bias: tensors[bias] + 10_000}, path)
    assert label(server.http.post("/v1/models/offset/predict", content=SQUARE)) == ("1", "square")
    detail = refusal(configure(server.http, "offset", precision="bfloat16"), 422)["detail"]
    assert "of 33 images of shapes the class that float32 gives them; at least 98% must agree" in detail
    assert server.http.get("/v1/models/offset/serving").json()["settings"]["precision"] == "float32"


def test_models_are_loaded_and_unloaded(server: Server) -> None:
    http, tiny = server.http, "/v1/models/tiny"
    assert "not in memory" in refusal(http.get(f"{tiny}/ready"), 503)["detail"]
    assert http.post(f"{tiny}/load").json()["versions"][0]["loaded_on"] == ["cpu"]
    assert http.get(f"{tiny}/ready").status_code == 200
    assert http.post(f"{tiny}/unload").json()["versions"][0]["loaded_on"] == []
    refusal(http.get(f"{tiny}/ready"), 503)
    assert label(http.post(f"{tiny}/predict", content=DISC)) == ("1", "disc")


def test_a_model_that_cannot_be_loaded_says_why(server: Server, folder: Path) -> None:
    (folder / "mine@10.safetensors").write_bytes(b"broken")
    assert refusal(server.http.post("/v1/models/mine/load"), 422)["detail"]
    assert label(server.http.post("/v1/models/mine@2/predict", content=DISC)) == ("2", "square")


def test_only_admin_keys_change_what_is_served(own: Settings) -> None:
    keys = {"api_keys": frozenset({"user"}), "admin_keys": frozenset({"admin"})}
    with serving(own.model_copy(update=keys)) as guarded:
        http = guarded.http
        for method, path in (("POST", "load"), ("POST", "unload"), ("PUT", "serving")):
            body = {"json": {}} if method == "PUT" else {}
            refusal(http.request(method, f"/v1/models/tiny/{path}", **body), 401)
            refusal(http.request(method, f"/v1/models/tiny/{path}", headers=USER, **body), 403)
            assert http.request(method, f"/v1/models/tiny/{path}", headers=ADMIN, **body).status_code == 200
        refusal(http.post("/v1/models", json={"path": "x"}, headers=USER), 403)
        for headers in (USER, ADMIN):
            assert http.post("/v1/models/tiny/predict", content=DISC, headers=headers).status_code == 200


def test_a_deployment_is_looked_up_again_only_if_files_changed(folder: Path, own: Settings) -> None:
    deployments = Deployments(own.catalog(), own.data_dir / "serving")
    for file in (*folder.iterdir(), *filter(Path.exists, own.catalog().model_folders)):
        stamp = file.stat().st_mtime - 10
        os.utime(file, (stamp, stamp))
    first = deployments.find("mine")
    assert deployments.find("mine") is first
    card = folder / "mine@10.json"
    card.write_text(
        models.ModelCard.model_validate_json(card.read_text()).model_copy(update={"training": "new"}).model_dump_json()
    )
    assert deployments.find("mine").card.training == "new"


def test_a_file_that_changes_while_it_is_looked_up_is_looked_up_again(
    folder: Path, own: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.serving.deployments.SETTLED_NS", 10**7)
    deployments, find, card = (
        Deployments(own.catalog(), own.data_dir / "serving"),
        Deployments._find,
        folder / "mine@10.json",
    )
    changed = models.ModelCard.model_validate_json(card.read_text()).model_copy(update={"training": "new"})
    time.sleep(0.05)

    def slowly(self: Deployments, name: str, version: str | None) -> Deployment:
        found = find(self, name, version)
        card.write_text(changed.model_dump_json())
        time.sleep(0.05)
        return found

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Deployments, "_find", slowly)
        deployments.find("mine")
    assert deployments.find("mine").card.training == "new"


def test_no_request_is_lost_while_versions_change(
    server: Server, folder: Path, put_checkpoint: Put, tmp_path: Path
) -> None:
    stop = Event()

    def ask() -> list[tuple[str, str]]:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            seen: list[tuple[str, str]] = []
            while not stop.is_set():
                seen.append(label(http.post("/v1/models/mine/predict", content=DISC)))
            return seen

    with ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(ask) for _ in range(4)]
        for version in ("11", "12"):
            made = put_checkpoint(tmp_path, f"mine@{version}")
            for file in (made, made.with_suffix(".json")):
                file.rename(folder / file.name)  # nobody sees half a card
            until(
                lambda version=version: label(server.http.post("/v1/models/mine/predict", content=DISC))[0] == version
            )
        configure(server.http, default_version="1")
        server.http.post("/v1/models/mine@12/unload")
        until(lambda: label(server.http.post("/v1/models/mine/predict", content=DISC))[0] == "1")
        stop.set()
        answers = [each for task in asking for each in task.result()]
    assert {name for _, name in answers} == {"disc"}
    assert {version for version, _ in answers} >= {"11", "12"}
