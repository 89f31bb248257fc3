"""The server, its models and their versions, as the open inference protocol shows them to its real client."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tritonclient.http import InferenceServerClient, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from evaluation import Catalog
from service.settings import Settings
from tests.conftest import CLASSES, Put
from tests.server import Server, serving
from tests.service.kserve.requests import image_input
from tests.service.pictures import DISC, SQUARE, STRIPES, refusal

KEYS = {"Authorization": "Bearer reader"}
ADMIN = {"Authorization": "Bearer owner"}


@pytest.fixture(scope="module")
def guarded(settings: Settings, put_checkpoint: Put, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for keys, and has two versions of a model."""
    folder = tmp_path_factory.mktemp("versions")
    put_checkpoint(folder, "mine")
    put_checkpoint(folder, "mine@2", classes=tuple(reversed(CLASSES)))
    changed = {
        "api_keys": frozenset({"reader"}),
        "admin_keys": frozenset({"owner"}),
        "model_dirs": (folder,),
        "data_dir": tmp_path_factory.mktemp("inference"),
    }
    with serving(settings.model_copy(update=changed)) as running:
        yield running


@pytest.fixture
def guarded_triton(guarded: Server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(guarded.url.removeprefix("http://")) as client:
        yield client


def test_the_server_tells_what_it_is(triton: InferenceServerClient) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    metadata = triton.get_server_metadata()
    assert metadata["name"] == "withstand"
    assert metadata["version"]
    assert set(metadata["extensions"]) == {
        "binary_tensor_data",
        "classification",
        "model_configuration",
        "model_repository",
    }


def test_a_server_without_models_is_live_but_not_ready(settings: Settings, tmp_path: Path) -> None:
    class Empty(Settings):
        def catalog(self) -> Catalog:
            return Catalog((), ())

    with serving(Empty(data_dir=tmp_path, devices=("cpu",))) as empty:
        assert empty.http.get("/v2/health/live").json() == {"live": True}
        body = refusal(empty.http.get("/v2/health/ready"), 503)
        assert body["ready"] is False
        assert "add a checkpoint" in body["error"]


def test_a_model_tells_what_it_takes_and_gives(triton: InferenceServerClient) -> None:
    assert triton.get_model_metadata("tiny") == {
        "name": "tiny",
        "versions": ["1"],
        "platform": "pytorch",
        "inputs": [
            {"name": "image", "datatype": "BYTES", "shape": [-1]},
            {"name": "pixels", "datatype": "FP32", "shape": [-1, 3, 32, 32]},
        ],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
        ],
    }
    assert triton.get_model_config("tiny", "1") == {
        "name": "tiny",
        "platform": "pytorch",
        "max_batch_size": 4,
        "input": [
            {"name": "image", "data_type": "TYPE_STRING", "dims": []},
            {"name": "pixels", "data_type": "TYPE_FP32", "dims": [3, 32, 32]},
        ],
        "output": [
            {"name": "logits", "data_type": "TYPE_FP32", "dims": [3]},
            {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [3]},
        ],
    }


def states(client: InferenceServerClient) -> dict[tuple[str, str], str]:
    index = client.get_model_repository_index(headers=KEYS)
    assert all(bool(each["reason"]) == (each["state"] == "UNAVAILABLE") for each in index)
    return {(each["name"], each["version"]): each["state"] for each in index if each["name"] == "mine"}


def test_models_are_loaded_and_unloaded(guarded: Server, guarded_triton: InferenceServerClient) -> None:
    client = guarded_triton
    client.unload_model("mine", headers=ADMIN)
    assert states(client) == {("mine", "1"): "UNAVAILABLE", ("mine", "2"): "UNAVAILABLE"}
    assert not client.is_model_ready("mine", headers=KEYS)
    client.load_model("mine", headers=ADMIN)  # without a version, the latest
    assert client.is_model_ready("mine", headers=KEYS)
    assert states(client) == {("mine", "1"): "UNAVAILABLE", ("mine", "2"): "READY"}
    client.load_model("mine@1", headers=ADMIN)
    assert client.is_model_ready("mine", "1", headers=KEYS)
    only_ready = guarded.http.post("/v2/repository/index", json={"ready": True}, headers=KEYS).json()
    assert [(each["name"], each["version"]) for each in only_ready] == [("mine", "1"), ("mine", "2")]
    client.unload_model("mine@2", headers=ADMIN)
    assert states(client) == {("mine", "1"): "READY", ("mine", "2"): "UNAVAILABLE"}
    assert not client.is_model_ready("mine", headers=KEYS)
    client.unload_model("mine", headers=ADMIN)
    assert set(states(client).values()) == {"UNAVAILABLE"}


@pytest.mark.parametrize("call", ["load_model", "unload_model"])
def test_loading_needs_an_admin_key(guarded_triton: InferenceServerClient, call: str) -> None:
    for headers, status, reason in ((KEYS, "403", "needs the scope admin"), (None, "401", "an API key is needed")):
        with pytest.raises(InferenceServerException, match=reason) as caught:
            getattr(guarded_triton, call)("mine", headers=headers)
        assert caught.value.status() == status


def test_a_load_cannot_bring_a_configuration(triton: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match=r"config cannot be sent with a load"):
        triton.load_model("tiny", config="{}")
    with pytest.raises(InferenceServerException, match=r"unknown model 'tinny'. Did you mean 'tiny'"):
        triton.load_model("tinny")


def test_answered_pictures_are_counted(triton: InferenceServerClient) -> None:
    def counts() -> tuple[int, int]:
        (stats,) = triton.get_inference_statistics("twin", "1")["model_stats"]
        assert (stats["name"], stats["version"]) == ("twin", "1")
        return stats["inference_stats"]["success"]["count"], stats["inference_stats"]["fail"]["count"]

    ok, failed = counts()
    triton.infer("twin", [image_input(DISC, SQUARE)])
    with pytest.raises(InferenceServerException):
        triton.infer("twin", [image_input(b"no picture")])
    assert counts() == (ok + 2, failed + 1)
    everything = {each["name"]: each for each in triton.get_inference_statistics()["model_stats"]}
    assert everything["twin"] == triton.get_inference_statistics("twin")["model_stats"][0]
    assert {"tiny", "twin", "resnet_mini.fashion_mnist"} <= everything.keys()


@pytest.mark.parametrize(
    ("name", "version", "answers", "label"),
    [("mine", "", "2", 1), ("mine", "1", "1", 1), ("mine", "2", "2", 1), ("mine@1", "", "1", 1), ("mine", "2", "2", 0)],
)
def test_versions_are_chosen(
    guarded_triton: InferenceServerClient, name: str, version: str, answers: str, label: int
) -> None:
    wanted = InferRequestedOutput("logits", class_count=1)
    data = (DISC, SQUARE, STRIPES)[label]
    answer = guarded_triton.infer(
        name, [image_input(data)], model_version=version, outputs=[wanted], headers=dict(KEYS)
    )
    assert answer.get_response()["model_name"] == "mine"
    assert answer.get_response()["model_version"] == answers
    classes = CLASSES if answers == "1" else CLASSES[::-1]
    assert answer.as_numpy("logits")[0, 0].decode().endswith(f":{label}:{classes[label]}")


def test_every_path_of_a_model_is_there_for_a_version(guarded: Server) -> None:
    guarded.http.post("/v2/repository/models/mine/unload", headers=ADMIN)
    guarded.http.post("/v2/repository/models/mine@1/load", headers=ADMIN)
    for path, status in (("", 200), ("/config", 200), ("/stats", 200), ("/ready", 503)):
        assert guarded.http.get(f"/v2/models/mine{path}", headers=KEYS).status_code == status
        for chosen in (f"mine/versions/1{path}", f"mine{path}?version=1", f"mine@1{path}"):
            answer = guarded.http.get(f"/v2/models/{chosen}", headers=KEYS)
            assert answer.status_code == 200, chosen
    body = refusal(guarded.http.get("/v2/models/mine/ready", headers=KEYS), 503)
    assert (body["ready"], body["error"][:32]) == (False, "mine version 2 is not in memory;")
    for wrong in ("mine/versions/-", "mine?version=a/b"):
        refusal(guarded.http.get(f"/v2/models/{wrong}", headers=KEYS), 422)


def test_unknown_names_get_help(guarded_triton: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match=r"unknown version of mine '3'. .*Known: 1, 2") as caught:
        guarded_triton.infer("mine", [image_input(DISC)], model_version="3", headers=dict(KEYS))
    assert caught.value.status() == "404"
    with pytest.raises(InferenceServerException, match="an API key is needed") as caught:
        guarded_triton.infer("mine", [image_input(DISC)])
    assert caught.value.status() == "401"
