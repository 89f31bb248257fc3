"""Models and evaluations are removed for good, unless something needs them."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from evaluation import EvaluationSpec
from service.jobs.store import Store
from service.serving import scheduler
from service.settings import Settings
from tests.command import Ended, Run
from tests.conftest import Put
from tests.server import Server, a_plan, serving, until
from tests.service.pictures import DISC, refusal
from withstand import Client, ClientError

PGD_FOR_DAYS = {"name": "pgd", "parameters": {"steps": 10_000}}


@pytest.fixture
def own(settings: Settings, tmp_path: Path, put_checkpoint: Put, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server to which `mine` and `mine@2` were added; its admin key is `owner`, which the environment has."""
    monkeypatch.setenv("WITHSTAND_API_KEY", "owner")
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
    assert own.service.scheduler.loaded_on(deployment)
    refusal(own.http.delete("/v1/models/mine@2", headers={"X-API-Key": "user"}), 403)
    assert own.http.delete("/v1/models/mine@2").status_code == 204
    assert not own.service.scheduler.loaded_on(deployment)
    assert sorted(each.name for each in (tmp_path / "data" / "models").iterdir()) == ["mine.json", "mine.safetensors"]
    assert own.http.post("/v1/models/mine/predict", content=DISC).json()["version"] == "1"
    refusal(own.http.delete("/v1/models/mine@2"), 404)


def test_what_another_process_removes_leaves_the_memory_too(
    settings: Settings, tmp_path: Path, put_checkpoint: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process of the service, or the command on its folder, changes the files alone."""
    monkeypatch.setattr(scheduler, "LOOK_S", 0.05)
    store = tmp_path / "data" / "models"
    store.mkdir(parents=True)
    for name in ("mine", "mine@2"):
        put_checkpoint(store, name)
    with serving(settings.model_copy(update={"data_dir": tmp_path / "data"})) as own:
        for version in ("1", "2"):
            answer = own.http.post("/v1/models/mine/predict", params={"version": version}, content=DISC)
            assert answer.status_code == 200
        first, second = (own.service.deployments.find("mine", version) for version in ("1", "2"))
        own.service.catalog.remove_model("mine@2")
        until(lambda: not own.service.scheduler.loaded_on(second))
        assert own.service.scheduler.loaded_on(first)
        refusal(own.http.post("/v1/models/mine@2/predict", content=DISC), 404)


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


ENDLESS = [{"kind": "adversarial", "threat": {"norm": "Linf", "eps": "8/255"}, "attacks": [PGD_FOR_DAYS]}]


def submitted(own: Server, **spec: object) -> dict[str, Any]:
    answer = own.http.post("/v1/evaluations", json={"models": ["tiny"], "dataset": "shapes", "images": 3} | spec)
    assert answer.status_code == 202, answer.text
    return answer.json()


def ended(own: Server, **spec: object) -> dict[str, Any]:
    state = submitted(own, **spec)
    until(lambda: own.http.get(state["links"]["self"]).json()["status"] == "done")
    return state


REMOVE = {"results": "true"}


def test_an_evaluation_is_removed_with_its_results(own: Server) -> None:
    state, other = ended(own), ended(own, images=4)
    where = state["links"]["self"]
    user = {"X-API-Key": "user"}
    refusal(own.http.delete(where, params=REMOVE, headers=user), 404)
    own.http.post("/v1/evaluations", json=state["spec"], headers=user)
    refusal(own.http.delete(where, params=REMOVE, headers=user), 403)
    answer = own.http.delete(where, params=REMOVE)
    assert (answer.status_code, answer.json()["status"], answer.json()["id"]) == (200, "done", state["id"])
    for link in state["links"].values():
        refusal(own.http.get(link), 404)
    assert state["id"] in refusal(own.http.delete(where, params=REMOVE), 404)["detail"]
    assert [each["id"] for each in own.http.get("/v1/evaluations").json()["evaluations"]] == [other["id"]]
    assert own.http.get(other["links"]["self"]).json()["report"]["complete"]


@pytest.mark.parametrize("status", ["pending", "running"])
def test_an_evaluation_that_has_yet_to_end_is_refused(own: Server, status: str) -> None:
    first = submitted(own, conditions=ENDLESS)
    until(lambda: own.http.get(first["links"]["self"]).json()["status"] == "running")
    state = submitted(own, seed=1) if status == "pending" else first
    said = refusal(own.http.delete(state["links"]["self"], params=REMOVE), 409)["detail"]
    assert said == f"evaluation {state['id']} is {status} and cannot be removed; wait for its end, or cancel it first"
    assert own.http.get(state["links"]["self"]).json()["status"] == status


def test_what_is_cancelled_can_be_removed_while_it_is_still_being_computed(own: Server) -> None:
    """The device is free for others at once."""
    state = submitted(own, conditions=ENDLESS)
    until(lambda: own.http.get(state["links"]["self"]).json()["status"] == "running")
    for params in ({}, REMOVE):
        assert own.http.delete(state["links"]["self"], params=params).json()["status"] == "cancelled"
    assert ended(own)["id"] != state["id"]
    refusal(own.http.get(state["links"]["self"]), 404)


def test_the_client_and_the_command_remove_from_a_running_service(own: Server, run: Run) -> None:
    first, second, third = (ended(own, seed=seed) for seed in range(3))
    there = ["--server", own.url]
    listed = run("evaluations", *there)
    assert [line.split(":")[0] for line in listed.out.splitlines()] == [third["id"], second["id"], first["id"]]
    assert f"{first['id']}: done, 3 of 3 rows, tiny on shapes, 20" in listed.out
    with Client(own.url, api_key="owner") as client:
        assert client.remove_evaluation(first["id"])["id"] == first["id"]
        with pytest.raises(ClientError, match=f"404: there is no evaluation '{first['id']}'"):
            client.remove_evaluation(first["id"])
        assert [each["id"] for each in client.evaluations()] == [third["id"], second["id"]]
    assert run("evaluations", "rm", second["id"], *there) == Ended(0, f"removed {second['id']}\n", "")
    refused = run("evaluations", "rm", second["id"], *there)
    assert (refused.status, refused.out) == (2, "")
    assert [each["id"] for each in json.loads(run("evaluations", "--json", *there).out)] == [third["id"]]


def test_the_command_removes_from_the_folder_of_a_service(run: Run, tmp_path: Path) -> None:
    nowhere = run("evaluations", "--data-dir", tmp_path)
    assert (nowhere.status, nowhere.err) == (
        2,
        f"withstand: no service has stored anything in {tmp_path}: give its folder with --data-dir, or its address with --server\n",
    )
    with closing(Store.at(tmp_path / "withstand.db")) as store:
        store.submit(a_plan(0))
        store.submit(a_plan(1))
        store.cancel(a_plan(0).id)
    refused = run("evaluations", "rm", a_plan(1).id, "--data-dir", tmp_path)
    assert (refused.status, refused.out) == (1, "")
    assert "is pending and cannot be removed" in refused.err
    assert "there is no evaluation" in run("evaluations", "rm", "f" * 16, "--data-dir", tmp_path).err
    assert run("evaluations", "rm", a_plan(0).id, "--data-dir", tmp_path).out == f"removed {a_plan(0).id}\n"
    assert run("evaluations", "--data-dir", tmp_path).out.startswith(
        f"{a_plan(1).id}: pending, 0 of 250 rows, tiny on shapes"
    )


def test_the_command_removes_a_model_from_a_running_service(own: Server, run: Run, tmp_path: Path) -> None:
    there = ["--server", own.url]
    assert run("models", "rm", "mine", *there) == Ended(0, "removed mine\n", "")
    assert not (tmp_path / "data" / "models" / "mine.json").exists()
    refused = run("models", "rm", "mine", *there)
    assert (refused.status, refused.out) == (2, "")
    assert "404: unknown version of mine '1'" in refused.err
    assert "422: " in run("models", "rm", "tiny", *there).err
