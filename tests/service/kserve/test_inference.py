"""Pictures and pixels to logits by the open inference protocol, spoken by its real client."""

import asyncio

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient, InferRequestedOutput, InferResult
from tritonclient.http.aio import InferenceServerClient as AsyncClient
from tritonclient.utils import InferenceServerException

from evaluation import Catalog
from tests.conftest import CLASSES
from tests.server import Server
from tests.service.kserve.requests import (
    INFER,
    image_input,
    json_request,
    logits_of,
    pixels_input,
    prepared,
)
from tests.service.pictures import DISC, SQUARE, STRIPES


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return torch.from_numpy(logits).softmax(1).numpy()


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


def test_a_plain_json_request_is_answered(http: httpx.Client, catalog: Catalog) -> None:
    answer = http.post(INFER, json=json_request())
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert "forward;dur=" in answer.headers["server-timing"]
    (output,) = answer.json()["outputs"]
    want = logits_of(catalog, prepared(catalog, DISC))
    assert output["shape"] == [1, 3]
    assert output["data"] == pytest.approx(want[0].tolist(), abs=1e-4)
