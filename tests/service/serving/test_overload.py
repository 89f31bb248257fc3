"""The queue in front of a model when it is full, slow or stopped: what is refused, dropped and cancelled."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep

import pytest
from torch import Tensor

from common.pictures import PictureError
from service.serving import scheduler
from service.serving.errors import OverloadedError, TooLateError
from service.serving.queue import Answer, Picture
from service.settings import Settings
from tests.server import DEADLINE_S, serving, until
from tests.service.held import Held
from tests.service.pictures import DISC, SQUARE, URL, labels, refusal
from tests.service.serving.predictions import IMAGES, Find, Start, classes, pictures


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(new: Start, find: Find) -> None:
    predictor = new()

    async def ask() -> list[Answer | PictureError]:
        waiting = asyncio.ensure_future(predictor.predict(find("tiny"), pictures(*IMAGES)))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="3 pictures are waiting") as refused:
            await predictor.predict(find("tiny"), pictures(*IMAGES[:2]))
        assert refused.value.retry_after_s == 1
        predictor.start()
        return await waiting

    assert classes(asyncio.run(ask())) == [0, 1, 2]


def test_a_slow_queue_refuses_before_it_is_full(new: Start, find: Find, held: Held) -> None:
    """One picture takes a second, which is known after the first; then what waits behind another is too much."""
    predictor = new(images=100, wait_s=0.5)
    predictor.start()

    def slow() -> Tensor:
        sleep(1)
        return IMAGES[0]

    async def ask() -> None:
        held.release.set()
        await predictor.predict(find("tiny"), [Picture(slow)])
        held.release.clear()
        held.busy.clear()
        runs = asyncio.ensure_future(predictor.predict(find("tiny"), pictures(IMAGES[0])))
        await asyncio.to_thread(held.busy.wait, DEADLINE_S)
        waits = asyncio.ensure_future(predictor.predict(find("tiny"), pictures(IMAGES[1])))  # nobody waits: let in
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match=r"1 pictures are waiting, which takes about 2\.\d s") as refused:
            predictor.require_room()
        assert refused.value.retry_after_s >= 2
        held.release.set()
        await asyncio.gather(runs, waits)
        predictor.require_room()

    asyncio.run(ask())


def test_what_came_too_late_is_dropped_before_the_forward(new: Start, find: Find, forwarded: list[int]) -> None:
    predictor, tiny = new(), find("tiny")
    with pytest.raises(TooLateError, match=r"no prediction within 0.05 s; the request was dropped"):
        asyncio.run(predictor.predict(tiny, pictures(*IMAGES), timeout_s=0.05))
    predictor.start()
    until(lambda: not predictor.waiting and predictor.is_loaded(tiny))
    predictor.stop()
    assert forwarded == [1], "the warm-up alone"


def test_what_was_decoded_but_came_too_late_is_dropped_too(
    new: Start, find: Find, held: Held, forwarded: list[int]
) -> None:
    """The deadline passes while the model loads, whose warm-up is held."""
    predictor, tiny = new(), find("tiny")
    predictor.start()
    with pytest.raises(TooLateError, match=r"no prediction within 0\.2 s"):
        asyncio.run(predictor.predict(tiny, pictures(*IMAGES), timeout_s=0.2))
    (queue,) = predictor._queues.values()
    assert len(queue.ready) == len(IMAGES), "all are decoded"
    held.release.set()
    until(lambda: predictor.is_loaded(tiny) and not predictor.waiting)
    predictor.stop()
    assert forwarded == [1], "the warm-up alone"


def test_what_nobody_waits_for_is_dropped_before_the_forward(new: Start, find: Find, forwarded: list[int]) -> None:
    predictor = new()

    async def ask() -> list[Answer | PictureError]:
        gone = asyncio.ensure_future(predictor.predict(find("tiny"), pictures(*IMAGES[:2])))
        stays = asyncio.ensure_future(predictor.predict(find("tiny"), pictures(*IMAGES[2:])))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        predictor.start()
        return await stays

    assert classes(asyncio.run(ask())) == [2]
    assert forwarded[1:] == [1]


def test_stopping_cancels_what_waits_and_finishes_what_runs(new: Start, find: Find, held: Held) -> None:
    predictor, tiny = new(), find("tiny")

    async def ask() -> None:
        held.release.set()
        await predictor.load(tiny)
        held.release.clear()
        held.busy.clear()
        runs = asyncio.ensure_future(predictor.predict(tiny, pictures(*IMAGES[:1])))
        await asyncio.to_thread(held.busy.wait, DEADLINE_S)
        waits = asyncio.ensure_future(predictor.predict(tiny, pictures(*IMAGES[1:])))
        await asyncio.sleep(0)
        stopping = asyncio.create_task(asyncio.to_thread(predictor.stop))
        with pytest.raises(asyncio.CancelledError):
            await waits
        held.release.set()
        await stopping
        assert classes(await runs) == [0]

    predictor.start()
    asyncio.run(ask())


def test_over_http_a_busy_server_answers_503_and_504(
    settings: Settings, tmp_path: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request is held in its forward pass, one waits in the queue, one is too many."""
    changed = {"data_dir": tmp_path, "queue_images": 2, "predict_timeout_s": 1.0}
    monkeypatch.setattr(scheduler, "cores", lambda: 1)
    with serving(settings.model_copy(update=changed)) as small, ThreadPoolExecutor(2) as threads:
        held.release.set()
        assert labels(small.http.post(URL, content=DISC)) == ["disc"]
        held.release.clear()
        held.busy.clear()
        first = threads.submit(small.http.post, URL, content=DISC)
        until(held.busy.is_set)
        second = threads.submit(small.http.post, URL, files=[("file", ("a", DISC)), ("file", ("b", SQUARE))])
        until(lambda: small.service.scheduler.predictors["cpu"].waiting == 2)
        answer = small.http.post(URL, content=DISC)
        assert refusal(answer, 503)["detail"].startswith("2 pictures are waiting")
        assert answer.headers["retry-after"] == "1"
        for late in (first.result(), second.result()):
            assert "no prediction within 1 s" in refusal(late, 504)["detail"]
        held.release.set()
        assert labels(small.http.post(URL, content=DISC)) == ["disc"]
