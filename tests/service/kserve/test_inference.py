"""The open inference protocol, spoken by its real client; and by strangers."""

import asyncio
import base64
import gzip
import json
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.http.aio import InferenceServerClient as AsyncClient
from tritonclient.utils import InferenceServerException

import models
from common.pictures import open_picture
from evaluation import Catalog
from service.settings import Settings
from tests.conftest import CLASSES, Put
from tests.server import DEADLINE_S, Server, serving, until
from tests.service.held import Held
from tests.service.pictures import DISC, SQUARE, STRIPES, png_of_zeros, refusal

INFER = "/v2/models/tiny/infer"
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
def triton(server: Server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.url.removeprefix("http://")) as client:
        yield client


@pytest.fixture
def guarded_triton(guarded: Server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(guarded.url.removeprefix("http://")) as client:
        yield client


def image_input(*pictures: bytes, binary: bool = True) -> InferInput:
    sent = InferInput("image", [len(pictures)], "BYTES")
    elements = pictures if binary else [base64.b64encode(each) for each in pictures]
    sent.set_data_from_numpy(np.array(elements, dtype=object), binary_data=binary)
    return sent


def pixels_input(pixels: NDArray[np.float32], *, binary: bool = True) -> InferInput:
    sent = InferInput("pixels", list(pixels.shape), "FP32")
    sent.set_data_from_numpy(pixels, binary_data=binary)
    return sent


def prepared(catalog: Catalog, *pictures: bytes) -> torch.Tensor:
    preprocessing = catalog.checkpoint("tiny").card().preprocessing
    return torch.stack([preprocessing(open_picture(each)) for each in pictures])


def logits_of(catalog: Catalog, images: torch.Tensor) -> NDArray[np.float32]:
    """Logits computed without the service."""
    with torch.inference_mode():
        return models.load("tiny", folders=catalog.model_folders)(images).numpy()


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return torch.from_numpy(logits).softmax(1).numpy()


# The server and its models


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
    for headers, status, reason in ((KEYS, "403", "admin keys"), (None, "401", "an API key is needed")):
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


# Inference


@pytest.mark.parametrize("packing", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_pictures_become_logits(
    triton: InferenceServerClient, catalog: Catalog, binary: bool, packing: str | None
) -> None:
    sent = image_input(STRIPES, DISC, binary=binary)
    answer = triton.infer("tiny", [sent], request_id="mine", request_compression_algorithm=packing)
    want = logits_of(catalog, prepared(catalog, STRIPES, DISC))
    logits = answer.as_numpy("logits")
    assert (logits.dtype, logits.shape) == (np.float32, (2, 3))
    assert logits == pytest.approx(want, abs=1e-4)
    response = answer.get_response()
    assert (response["model_name"], response["model_version"], response["id"]) == ("tiny", "1", "mine")
    assert [each["name"] for each in response["outputs"]] == ["logits"]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_pixels_become_what_is_asked_for(triton: InferenceServerClient, catalog: Catalog, binary: bool) -> None:
    images = prepared(catalog, DISC, SQUARE, STRIPES)
    outputs = [InferRequestedOutput(name, binary_data=binary) for name in ("probabilities", "logits")]
    answer = triton.infer("tiny", [pixels_input(images.numpy(), binary=binary)], outputs=outputs)
    want = logits_of(catalog, images)
    assert answer.as_numpy("logits") == pytest.approx(want, abs=1e-4)
    assert answer.as_numpy("probabilities") == pytest.approx(softmax(want), abs=1e-4)
    parameters = answer.get_output("logits").get("parameters")
    assert parameters == ({"binary_data_size": 36} if binary else None)


def test_json_and_binary_outputs_may_be_mixed(triton: InferenceServerClient) -> None:
    outputs = [
        InferRequestedOutput("logits", binary_data=False),
        InferRequestedOutput("probabilities", binary_data=True),
    ]
    answer = triton.infer("tiny", [image_input(DISC)], outputs=outputs)
    assert softmax(answer.as_numpy("logits")) == pytest.approx(answer.as_numpy("probabilities"), abs=1e-6)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("name", ["logits", "probabilities"])
def test_classes_are_named(triton: InferenceServerClient, catalog: Catalog, name: str, binary: bool) -> None:
    wanted = InferRequestedOutput(name, class_count=2, binary_data=binary)
    answer = triton.infer("tiny", [image_input(SQUARE, DISC)], outputs=[wanted])
    values = logits_of(catalog, prepared(catalog, SQUARE, DISC))
    values = values if name == "logits" else softmax(values)
    named = answer.as_numpy(name)
    assert named.shape == (2, 2)
    for row, want in zip(named, values, strict=True):
        parts = [(each.decode() if binary else each).split(":") for each in row]
        order = np.argsort(-want)[:2]
        assert [int(index) for _, index, _ in parts] == order.tolist()
        assert [label for _, _, label in parts] == [CLASSES[index] for index in order]
        assert [float(value) for value, _, _ in parts] == pytest.approx(want[order], abs=1e-4)


def test_more_classes_than_there_are_name_all(triton: InferenceServerClient) -> None:
    wanted = InferRequestedOutput("logits", class_count=1000)
    assert triton.infer("tiny", [image_input(DISC)], outputs=[wanted]).as_numpy("logits").shape == (1, 3)


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_a_large_answer_is_packed_if_asked_for(server: Server, catalog: Catalog, packing: str) -> None:
    """An id as long as this comes back; httpx unpacks by the header, and tritonclient reads the same bytes."""
    body, size = InferenceServerClient.generate_request_body([image_input(DISC)], request_id="x" * 3_000)
    headers = {"Inference-Header-Content-Length": str(size), "Accept-Encoding": packing}
    with server.http.stream("POST", INFER, content=body, headers=headers) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == packing
    assert len(raw) < 1_000
    length = int(answer.headers["inference-header-content-length"])
    result = InferResult.from_response_body(raw, header_length=length, content_encoding=packing)
    assert result.as_numpy("logits") == pytest.approx(logits_of(catalog, prepared(catalog, DISC)), abs=1e-4)
    for accepted in ("identity", "br", "gzip;q=0", "deflate;q=0.0, gzip; q=0"):
        plain = server.http.post(INFER, content=body, headers=headers | {"Accept-Encoding": accepted})
        assert "content-encoding" not in plain.headers, accepted


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_the_client_reads_packed_answers(triton: InferenceServerClient, catalog: Catalog, packing: str) -> None:
    answer = triton.infer("tiny", [image_input(DISC)], request_id="x" * 3_000, response_compression_algorithm=packing)
    assert answer.as_numpy("logits") == pytest.approx(logits_of(catalog, prepared(catalog, DISC)), abs=1e-4)


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


def test_the_client_of_asyncio_works_too(server: Server, catalog: Catalog) -> None:
    async def ask() -> tuple[bool, NDArray[np.float32]]:
        async with AsyncClient(server.url.removeprefix("http://")) as client:
            live = await client.is_server_live()
            answer = await client.infer("tiny", [image_input(SQUARE)], request_compression_algorithm="gzip")
            return live, answer.as_numpy("logits")

    live, logits = asyncio.run(ask())
    assert live
    assert logits == pytest.approx(logits_of(catalog, prepared(catalog, SQUARE)), abs=1e-4)


def test_a_deadline_is_in_microseconds(triton: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="no prediction within 1e-06 s") as caught:
        triton.infer("tiny", [image_input(DISC)], timeout=1)
    assert caught.value.status() == "504"
    assert triton.infer("tiny", [image_input(DISC)], timeout=30_000_000).as_numpy("logits").shape == (1, 3)
    assert triton.infer("tiny", [image_input(DISC)], timeout=0).as_numpy("logits").shape == (1, 3)


def test_parameters_that_mean_nothing_here_are_ignored(triton: InferenceServerClient) -> None:
    answer = triton.infer(
        "tiny", [image_input(DISC)], priority=3, sequence_id=5, sequence_start=True, parameters={"mine": "x"}
    )
    assert answer.as_numpy("logits").shape == (1, 3)


# What is refused


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_a_broken_picture_is_named_by_its_index(triton: InferenceServerClient, binary: bool) -> None:
    sent = image_input(DISC, DISC[:60], SQUARE, b"", binary=binary)
    with pytest.raises(
        InferenceServerException, match=r"image.1: the picture is broken.*; image.3: the picture is empty"
    ):
        triton.infer("tiny", [sent])
    with pytest.raises(InferenceServerException, match=r"image.0: the picture has 8000 x 8000 pixels"):
        triton.infer("tiny", [image_input(png_of_zeros(8_000), binary=binary)])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.01, 1.01, 255.0])
def test_pixels_out_of_range_are_named_by_their_index(triton: InferenceServerClient, value: float) -> None:
    pixels = np.full((3, 3, 32, 32), 0.5, np.float32)
    pixels[1, 2, 3, 4] = value
    with pytest.raises(
        InferenceServerException, match=r"^\[422\] pixels.1: pixels must be in \[0, 1\], received"
    ) as caught:
        triton.infer("tiny", [pixels_input(pixels)])
    assert "pixels.0" not in str(caught.value)


def json_request(**changes: Any) -> dict[str, Any]:
    sent = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(DISC).decode()]}
    return {"inputs": [sent | changes]}


def test_a_plain_json_request_is_answered(http: httpx.Client, catalog: Catalog) -> None:
    answer = http.post(INFER, json=json_request())
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert "forward;dur=" in answer.headers["server-timing"]
    (output,) = answer.json()["outputs"]
    want = logits_of(catalog, prepared(catalog, DISC))
    assert output["shape"] == [1, 3]
    assert output["data"] == pytest.approx(want[0].tolist(), abs=1e-4)


LOOPS = {"name": "pixels", "shape": [1, 3, 32, 32], "datatype": "FP32"}
WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "unknown input": (json_request(name="images"), 404, "unknown input 'images'. Did you mean 'image'?"),
    "unknown output": (json_request() | {"outputs": [{"name": "logit"}]}, 404, "Did you mean 'logits'?"),
    "output twice": (json_request() | {"outputs": [{"name": "logits"}] * 2}, 422, "logits is asked for twice"),
    "no classes": (
        json_request() | {"outputs": [{"name": "logits", "parameters": {"classification": 0}}]},
        422,
        "classification",
    ),
    "another datatype": (json_request(datatype="FP32"), 422, "image: datatype must be BYTES, received 'FP32'"),
    "another shape": (json_request(shape=[1, 1]), 422, "image: shape must be [-1]"),
    "no pictures": (json_request(shape=[0], data=[]), 422, "shape must be [-1], -1 being one or more pictures"),
    "no shape": (json_request(shape=[]), 422, "inputs.0.shape"),
    "a negative shape": (json_request(shape=[-1]), 422, "inputs.0.shape.0"),
    "a huge shape": (json_request(shape=[2**40]), 422, "inputs.0.shape.0"),
    "too many pictures": (json_request(shape=[5]), 413, "is 5 pictures, at most 4 are allowed"),
    "a large shape": (json_request(shape=[2**30]), 413, "at most 4 are allowed"),
    "shape against data": (json_request(shape=[2]), 422, "shape [2] has 2 elements, received 1"),
    "no data": (json_request(data=None), 422, "neither is there"),
    "both": (
        json_request(parameters={"binary_data_size": 0}),
        422,
        "send data, or a binary part with parameters.binary_data_size; both are there",
    ),
    "no binary part": (json_request(data=None, parameters={"binary_data_size": 9}), 422, "0 bytes follow the JSON"),
    "a negative size": (json_request(data=None, parameters={"binary_data_size": -9}), 422, "binary_data_size"),
    "a huge size": (json_request(data=None, parameters={"binary_data_size": 2**62}), 422, "0 bytes follow the JSON"),
    "shared memory": (json_request(parameters={"shared_memory_region": "x"}), 422, "shared memory is not supported"),
    "not base64": (json_request(data=["?"]), 422, "image.0: not base64"),
    "not a text": (json_request(data=[7]), 422, "image: data must be texts, element 0 is 7"),
    "no floats": (json_request(**LOOPS, data=["x"] * 3072), 422, "pixels: data must be numbers"),
    "few floats": (json_request(**LOOPS, data=[0.5] * 3071), 422, "has 3072 elements, received 3071"),
    "another side": (json_request(**LOOPS | {"shape": [1, 3, 31, 32]}), 422, "pixels: shape must be [-1, 3, 32, 32]"),
    "no inputs": ({"inputs": []}, 422, "inputs"),
    "nothing": ({}, 422, "inputs"),
    "two inputs": (
        {"inputs": [*json_request()["inputs"], LOOPS | {"data": [0.5] * 3072}]},
        422,
        "send one of image and pixels, received image, pixels",
    ),
    "a misspelled field": (json_request() | {"output": []}, 422, "output"),
    "a negative timeout": (json_request() | {"parameters": {"timeout": -1}}, 422, "parameters.timeout"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_refused_with_its_reason(http: httpx.Client, case: str) -> None:
    request, status, reason = WRONG[case]
    body = refusal(http.post(INFER, json=request), status)
    assert reason in body["error"]
    assert body["error"] == body["detail"]


def with_parts(request: dict[str, Any], *parts: bytes, length: int | str | None = None) -> dict[str, Any]:
    head = json.dumps(request).encode()
    headers = {"Inference-Header-Content-Length": str(len(head) if length is None else length)}
    return {"content": b"".join((head, *parts)), "headers": headers}


def binary_request(size: int) -> dict[str, Any]:
    return json_request(data=None, parameters={"binary_data_size": size})


ELEMENT = struct.pack("<I", len(DISC)) + DISC


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (
            with_parts(binary_request(len(ELEMENT)), ELEMENT[:-1]),
            "bytes follow the JSON, but binary_data_size announces",
        ),
        (with_parts(binary_request(len(ELEMENT)), ELEMENT + b"x"), "bytes follow the JSON"),
        (with_parts(binary_request(len(ELEMENT) - 1), ELEMENT[:-1]), "image: element 0 should begin with its length"),
        (with_parts(binary_request(5), b"\xff\xff\xff\xffx"), "image: element 0 should begin with its length"),
        (with_parts(binary_request(0)), "shape [1] has 1 elements, received 0"),
        (with_parts(binary_request(len(ELEMENT)), ELEMENT, length=0), "1 to the"),
        (with_parts(binary_request(len(ELEMENT)), ELEMENT, length=-3), "received '-3'"),
        (with_parts(binary_request(len(ELEMENT)), ELEMENT, length=10**17), "Inference-Header-Content-Length"),
        (with_parts(binary_request(len(ELEMENT)), ELEMENT, length="9" * 4000), "Inference-Header-Content-Length"),
        (with_parts(binary_request(len(ELEMENT)), ELEMENT, length=7), "Invalid JSON"),
        ({"content": b""}, "Invalid JSON"),
        ({"content": b"[" * 5_000}, "Invalid JSON"),
        ({"content": b"null"}, ""),
        ({"content": b"{}", "headers": {"Content-Encoding": "br"}}, "gzip and deflate are"),
        ({"content": b"{}", "headers": {"Content-Encoding": "gzip"}}, "the body is not gzip"),
        ({"content": gzip.compress(b"{}", mtime=0)[:-4], "headers": {"Content-Encoding": "gzip"}}, "ends too early"),
    ],
    ids=range(16),
)
def test_a_broken_body_is_refused_with_its_reason(http: httpx.Client, sent: dict[str, Any], reason: str) -> None:
    assert reason in refusal(http.post(INFER, **sent), 422)["error"]


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_a_bomb_is_refused_before_it_is_unpacked(
    http: httpx.Client, settings: Settings, pack: Callable[[bytes], bytes]
) -> None:
    bomb = pack(bytes(50 * settings.max_body_bytes))
    assert len(bomb) < settings.max_body_bytes
    encoding = "gzip" if pack is gzip.compress else "deflate"
    body = refusal(http.post(INFER, content=bomb, headers={"Content-Encoding": encoding}), 413)
    assert f"more than {settings.max_body_bytes} bytes once it is unpacked" in body["error"]


def test_a_broken_picture_leaves_other_requests_alone(http: httpx.Client) -> None:
    whole, broken = with_parts(binary_request(len(ELEMENT)), ELEMENT), struct.pack("<I", 1) + b"x"
    sent = [whole, with_parts(binary_request(len(broken)), broken)] * 12
    with ThreadPoolExecutor(8) as threads:
        statuses = [each.status_code for each in threads.map(lambda each: http.post(INFER, **each), sent)]
    assert statuses == [200, 422] * 12


def test_a_full_queue_refuses_before_the_body_is_read(settings: Settings, tmp_path: Path, held: Held) -> None:
    changed = {"data_dir": tmp_path, "max_images": 1, "queue_images": 1}
    with serving(settings.model_copy(update=changed)) as server, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(server.http.post, INFER, json=json_request())  # the model is held while it loads
        until(lambda: server.service.scheduler.predictors["cpu"].waiting == 1)
        address = httpx.URL(server.url)
        with socket.create_connection((address.host, address.port), DEADLINE_S) as client:
            client.sendall(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n".encode())
            answer = client.recv(65_536).decode().lower()
        assert answer.startswith("http/1.1 503")
        assert "retry-after: 1" in answer
        held.release.set()
        assert waiting.result().status_code == 200


def test_random_bodies_never_break_the_server(http: httpx.Client) -> None:
    generator = np.random.default_rng(0)
    whole = with_parts(binary_request(len(ELEMENT)), ELEMENT)
    encodings = ("", "gzip", "deflate")
    for turn in range(60):
        broken = np.frombuffer(whole["content"], np.uint8).copy()
        where = generator.integers(0, min(len(broken), 300), 4)
        broken[where] = generator.integers(0, 256, 4)
        noise = generator.bytes(int(generator.integers(0, 300)))
        for content in (broken.tobytes(), noise):
            headers = whole["headers"] | {"Content-Encoding": encodings[turn % 3]}
            assert http.post(INFER, content=content, headers=headers).status_code in {200, 404, 413, 422}
    assert http.post(INFER, **whole).status_code == 200
