"""Models are removed for good, unless something needs them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluation import EvaluationSpec
from service.settings import Settings
from tests.conftest import Put
from tests.service.conftest import Server, a_plan, serving
from tests.service.test_predict import DISC, refusal


@pytest.fixture
def own(settings: Settings, tmp_path: Path, put_checkpoint: Put) -> Iterator[Server]:
    """A server to which `mine` and `mine@2` were added; its admin key is `owner`."""
    store = tmp_path / "data" / "models"
    store.mkdir(parents=True)
    put_checkpoint(store, "mine")
    put_checkpoint(store, "mine@2")
    keys = {"api_keys": frozenset({"user"}), "admin_keys": frozenset({"owner"})}
    with serving(settings.model_copy(update=keys | {"data_dir": tmp_path / "data"})) as running:
        running.http.headers["X-API-Key"] = "owner"
        yield running


def test_a_model_is_removed_from_disk_and_from_memory(own: Server, tmp_path: Path) -> None:
    assert own.http.post("/v1/models/mine@2/predict", content=DISC).status_code == 200
    deployment = own.service.deployments.find("mine", "2")
    assert own.service.fleet.loaded_on(deployment)
    refusal(own.http.delete("/v1/models/mine@2", headers={"X-API-Key": "user"}), 403)
    assert own.http.delete("/v1/models/mine@2").status_code == 204
    assert not own.service.fleet.loaded_on(deployment)
    assert sorted(each.name for each in (tmp_path / "data" / "models").iterdir()) == ["mine.json", "mine.safetensors"]
    assert own.http.post("/v1/models/mine/predict", content=DISC).json()["version"] == "1"
    refusal(own.http.delete("/v1/models/mine@2"), 404)


def test_a_model_of_a_folder_stays(own: Server) -> None:
    assert "only added models can be removed" in refusal(own.http.delete("/v1/models/tiny"), 422)["detail"]
    assert own.http.get("/v1/models/tiny").status_code == 200


def test_a_model_that_an_evaluation_needs_stays_until_it_ends(own: Server) -> None:
    own.service.dispatcher.stop()  # it stays pending
    plan = a_plan(spec=EvaluationSpec(models=("mine",), dataset="shapes"))
    own.service.store.submit(plan.model_copy(update={"model_sha256": {"mine": "e" * 64}}))
    assert plan.id in refusal(own.http.delete("/v1/models/mine"), 409)["detail"]
    assert own.http.get("/v1/models/mine").status_code == 200
    own.service.store.cancel(plan.id)
    assert own.http.delete("/v1/models/mine").status_code == 204


def test_a_broken_model_can_be_removed(own: Server, tmp_path: Path) -> None:
    (tmp_path / "data" / "models" / "mine.json").write_text("{")
    assert own.http.delete("/v1/models/mine").status_code == 204
