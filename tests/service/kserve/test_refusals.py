"""Requests of the open inference protocol that are refused, and why."""

import gzip
import socket
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient
from tritonclient.utils import InferenceServerException

from service.settings import Settings
from tests.server import DEADLINE_S, serving, until
from tests.service.held import Held
from tests.service.kserve.requests import (
    ELEMENT,
    INFER,
    binary_request,
    image_input,
    json_request,
    pixels_input,
    with_parts,
)
from tests.service.pictures import DISC, SQUARE, png_of_zeros, refusal


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
