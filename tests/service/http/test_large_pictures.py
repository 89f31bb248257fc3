"""Pictures of many pixels: counted before they are decoded, and decoded behind everybody else's."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from common import text_sha256
from service.serving.queue import Picture
from service.settings import Settings
from tests.common.bombs import scans
from tests.conftest import picture_bytes
from tests.server import DEADLINE_S, Server, serving, until
from tests.service.health import require_health
from tests.service.latency import p99_s
from tests.service.pictures import DISC, URL, labels, png_of_zeros, refusal
from tests.service.serving.predictions import IMAGES

LARGE = png_of_zeros(7000)

GREEDY = text_sha256("greedy")[:16]
"""What stands for that key."""
"""Forty-nine megapixels in six kilobytes."""


@pytest.fixture(scope="module")
def server(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    few = {"request_pixels": 100_000_000, "queue_pixels": 220_000_000, "key_pixels": 100_000_000, "max_images": 64}
    longer = {"max_body_bytes": 64 * 2**20, "data_dir": tmp_path_factory.mktemp("data"), "queue_wait_s": 10.0}
    with serving(settings.model_copy(update=few | longer)) as running:
        yield running


def test_a_request_of_too_many_pixels_is_refused_before_any_is_decoded(server: Server) -> None:
    files = [("file", (f"{index}.png", LARGE)) for index in range(64)]
    began = time.perf_counter()
    answer = server.http.post(URL, files=files)
    assert "the pictures have 3136000000 pixels together, at most 100000000" in refusal(answer, 413)["detail"]
    assert time.perf_counter() - began < 1, "64 of them take 3 s to decode"


def test_pictures_that_fail_alone_do_not_count(server: Server) -> None:
    too_large = png_of_zeros(9000)
    files = [("file", ("good.png", DISC)), *(("file", (f"{index}.png", too_large)) for index in range(3))]
    predictions = server.http.post(URL, files=files).json()["predictions"]
    assert [each["error"] is None for each in predictions] == [True, False, False, False]


def test_the_inference_protocol_counts_too(server: Server) -> None:
    shape, size = [3], 3 * (len(LARGE) + 4)
    sent = {"name": "image", "datatype": "BYTES", "shape": shape, "parameters": {"binary_data_size": size}}
    head = httpx.Request("POST", "http://x", json={"inputs": [sent]}).content
    body = head + 3 * (len(LARGE).to_bytes(4, "little") + LARGE)
    answer = server.http.post(
        "/v2/models/tiny/infer", content=body, headers={"Inference-Header-Content-Length": str(len(head))}
    )
    refusal(answer, 413)


def held_back(server: Server, key: str, pixels: int, release: Event) -> Callable[[], Any]:
    """A request whose decoding waits, in a loop of its own."""

    def prepare() -> Tensor:
        release.wait(DEADLINE_S)
        return IMAGES[0]

    tiny = server.service.deployments.find("tiny")
    return lambda: asyncio.run(server.service.scheduler.predict(tiny, [Picture(prepare, pixels)], key=key))


def test_pixels_that_wait_are_bounded_for_each_key_and_in_all(server: Server) -> None:
    release = Event()
    with ThreadPoolExecutor(2) as threads:
        waits = [threads.submit(held_back(server, key, 90_000_000, release)) for key in (GREEDY, "another")]
        until(lambda: len(server.service.scheduler._of_key) == 2)
        refused = server.http.post(URL, content=LARGE, headers={"X-API-Key": "greedy"})
        assert "this API key would have 139000000 pixels waiting" in refusal(refused, 429)["detail"]
        refused = server.http.post(URL, content=LARGE, headers={"X-API-Key": "third"})
        assert "229000000 pixels would wait to be decoded, at most 220000000" in refusal(refused, 503)["detail"]
        assert refused.headers["retry-after"] == "1"
        assert labels(server.http.post(URL, content=DISC, headers={"X-API-Key": "greedy"})) == ["disc"]
        release.set()
        assert [len(each.result()) for each in waits] == [1, 1]
    assert not server.service.scheduler._pixels_of_key


@pytest.fixture(scope="module")
def slow() -> list[tuple[str, tuple[str, bytes]]]:
    """A form of two large pictures that take longest by their size: over half a second of a core."""
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), dtype=np.uint8)
    pictures = [scans(3000, 40), picture_bytes(Image.fromarray(noise))]
    return [("file", (str(index), each)) for index, each in enumerate(pictures)]


@pytest.mark.slow
def test_health_answers_beside_the_slowest_pictures(server: Server, slow: list[tuple[str, tuple[str, bytes]]]) -> None:
    def send() -> None:
        with ThreadPoolExecutor(4) as threads:
            answers = [threads.submit(server.http.post, URL, files=slow) for _ in range(4)]
        assert {each.result().status_code for each in answers} == {200}

    require_health(server.url, send)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_slowest_pictures_hardly_delay_others(server: Server, slow: list[tuple[str, tuple[str, bytes]]]) -> None:
    """Eight requests at once."""
    alone_s = min(p99_s(server, 200) for _ in range(2))
    with ThreadPoolExecutor(8) as threads:
        attacks = [threads.submit(server.http.post, URL, files=slow) for _ in range(8)]
        until(lambda: server.service.scheduler.predictors["cpu"].waiting > 2)
        beside_s = p99_s(server, 200)
        assert not all(each.done() for each in attacks), "they ended before they could delay anybody"
        statuses = {each.result().status_code for each in attacks}
    print(f"p99 alone {1e3 * alone_s:.1f} ms, beside {1e3 * beside_s:.1f} ms")
    assert statuses == {200}
    assert beside_s < max(2 * alone_s, 0.1), f"p99 {1e3 * alone_s:.0f} ms alone, {1e3 * beside_s:.0f} ms beside"
