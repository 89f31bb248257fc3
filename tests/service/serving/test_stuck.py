"""Threads that hang in a decoder or a model: the service says that it is not ready, and ends all the same."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from torch import Tensor

from common.cores import cores
from service.serving.errors import TooLateError
from service.serving.predictor import LONGEST_STOP_S
from service.serving.queue import Picture
from service.settings import Settings
from tests.server import DEADLINE_S, serving, until
from tests.service.held import Held
from tests.service.pictures import DISC, URL, labels, refusal
from tests.service.serving.predictions import IMAGES, Find, Start


def test_a_predictor_ends_although_its_thread_hangs(new: Start, find: Find) -> None:
    release = Event()
    predictor = new(timeout_s=0.2)
    predictor.start()
    asyncio.run(predictor.load(find("tiny")))

    def hang() -> Tensor:
        release.wait(DEADLINE_S)
        return IMAGES[0]

    with pytest.raises(TooLateError):
        asyncio.run(predictor.predict(find("tiny"), [Picture(hang)]))
    until(lambda: predictor.stuck)
    began = time.monotonic()
    predictor.stop()
    assert time.monotonic() - began < LONGEST_STOP_S + 1
    release.set()
    until(lambda: not predictor.stuck)


def test_a_server_whose_threads_all_hang_is_not_ready(settings: Settings, tmp_path: Path, held: Held) -> None:
    with serving(settings.model_copy(update={"data_dir": tmp_path, "predict_timeout_s": 2.0})) as server:
        held.release.set()
        assert labels(server.http.post(URL, content=DISC)) == ["disc"]
        assert server.http.get("/readyz").status_code == 200
        held.release.clear()
        with ThreadPoolExecutor(cores()) as threads:
            asked = [threads.submit(server.http.post, URL, content=DISC) for _ in range(cores())]
            assert {each.result().status_code for each in asked} == {504}
        for probe in ("/readyz", "/v2/health/ready"):
            until(lambda probe=probe: server.http.get(probe).status_code != 200)
            assert "every thread of cpu has been decoding" in refusal(server.http.get(probe), 503)["detail"]
        assert server.http.get("/healthz").status_code == 200
        held.release.set()
        until(lambda: server.http.get("/readyz").status_code == 200)
        assert labels(server.http.post(URL, content=DISC)) == ["disc"]
