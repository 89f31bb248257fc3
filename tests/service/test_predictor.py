"""The queue in front of a model: batches, overload, deadlines, replaced checkpoints."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

import models
from common.pictures import open_picture
from evaluation import Catalog
from service.errors import ServiceError
from service.predictor import Predictor
from service.settings import Settings
from tests.conftest import Put
from tests.service.conftest import DEADLINE_S, serving, until
from tests.service.test_predict import DISC, SQUARE, STRIPES, URL, labels, refusal


@pytest.fixture
def forwarded() -> Iterator[list[int]]:
    """Sizes of the batches that classifiers are given."""
    sizes: list[int] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, models.Classifier):
            sizes.append(len(inputs[0]))

    handle = register_module_forward_pre_hook(note)
    yield sizes
    handle.remove()


@dataclass
class Held:
    """Forward passes wait until they are released; `busy` is set once one does."""

    busy: Event = field(default_factory=Event)
    release: Event = field(default_factory=Event)


@pytest.fixture
def held() -> Iterator[Held]:
    state = Held()

    def hold(module: nn.Module, _inputs: object) -> None:
        if isinstance(module, models.Classifier):
            state.busy.set()
            state.release.wait(DEADLINE_S)

    handle = register_module_forward_pre_hook(hold)
    yield state
    handle.remove()


@pytest.fixture
def predictor(catalog: Catalog) -> Iterator[Predictor]:
    """A predictor that is not started yet, with room for four."""
    waiting = Predictor(catalog, "cpu", queue_images=4, timeout_s=DEADLINE_S)
    yield waiting
    waiting.stop()


IMAGES = [models.Preprocessing(resize=32, crop=32)(open_picture(data)) for data in (DISC, SQUARE, STRIPES)]


def test_what_waits_goes_through_the_model_as_one_batch(predictor: Predictor, forwarded: list[int]) -> None:
    async def ask() -> list[list[Tensor]]:
        asked = [asyncio.ensure_future(predictor.predict("tiny", [image])) for image in IMAGES]
        await asyncio.sleep(0)  # each of them is in the queue now
        predictor.start()
        return await asyncio.gather(*asked)

    answers = asyncio.run(ask())
    assert [int(answer[0].argmax()) for answer in answers] == [0, 1, 2]
    assert forwarded == [3]


def test_models_are_not_mixed_in_a_batch(predictor: Predictor, forwarded: list[int], catalog: Catalog) -> None:
    async def ask() -> list[list[Tensor]]:
        asked = [asyncio.ensure_future(predictor.predict(model, [IMAGES[0]])) for model in ("tiny", "twin", "tiny")]
        await asyncio.sleep(0)
        predictor.start()
        return await asyncio.gather(*asked)

    asyncio.run(ask())
    assert forwarded == [1, 1, 1]


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(predictor: Predictor) -> None:
    async def ask() -> list[Tensor]:
        waiting = asyncio.ensure_future(predictor.predict("tiny", IMAGES))
        await asyncio.sleep(0)
        with pytest.raises(ServiceError, match="3 images are waiting, allowed are 4") as refused:
            await predictor.predict("tiny", IMAGES[:2])
        assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})
        predictor.start()
        return await waiting

    assert [int(row.argmax()) for row in asyncio.run(ask())] == [0, 1, 2]


def test_what_came_too_late_is_dropped_before_the_forward(catalog: Catalog, forwarded: list[int]) -> None:
    predictor = Predictor(catalog, "cpu", queue_images=4, timeout_s=0.05)
    with pytest.raises(ServiceError, match=r"no prediction within 0.05 s; the request was dropped") as late:
        asyncio.run(predictor.predict("tiny", IMAGES))
    assert late.value.status == 504
    predictor.start()
    until(lambda: not predictor._waiting)
    predictor.stop()
    assert forwarded == []


def test_what_nobody_waits_for_is_dropped_before_the_forward(predictor: Predictor, forwarded: list[int]) -> None:
    async def ask() -> list[Tensor]:
        gone = asyncio.ensure_future(predictor.predict("tiny", IMAGES[:2]))
        stays = asyncio.ensure_future(predictor.predict("tiny", IMAGES[2:]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        predictor.start()
        return await stays

    assert [int(row.argmax()) for row in asyncio.run(ask())] == [2]
    assert forwarded == [1]


def test_stopping_cancels_what_waits_and_finishes_what_runs(predictor: Predictor, held: Held) -> None:
    async def ask() -> None:
        runs = asyncio.ensure_future(predictor.predict("tiny", IMAGES[:1]))
        await asyncio.to_thread(held.busy.wait)
        waits = asyncio.ensure_future(predictor.predict("tiny", IMAGES[1:]))
        await asyncio.sleep(0)
        stopping = asyncio.create_task(asyncio.to_thread(predictor.stop))
        with pytest.raises(asyncio.CancelledError):
            await waits
        held.release.set()
        await stopping
        assert int((await runs)[0].argmax()) == 0

    predictor.start()
    asyncio.run(ask())


def test_a_replaced_checkpoint_is_loaded_anew_and_a_broken_one_fails_alone(put_checkpoint: Put, tmp_path: Path) -> None:
    path = put_checkpoint(tmp_path, "mine")
    predictor = Predictor(Catalog((tmp_path,), ()), "cpu", queue_images=4, timeout_s=DEADLINE_S)
    predictor.start()

    def ask() -> Tensor:
        return asyncio.run(predictor.predict("mine", IMAGES[:1]))[0]

    before = ask()
    negated = {key: -value if key.startswith("fc.") else value for key, value in load_file(path).items()}
    assert any(key.startswith("fc.") for key in negated)
    save_file(negated, path)
    with pytest.raises(models.CheckpointError, match="its card says"):
        ask()
    card = models.ModelCard.model_validate_json(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(card.model_copy(update={"sha256": None}).model_dump_json())
    assert torch.allclose(ask(), -before, atol=1e-5)
    predictor.stop()


def test_over_http_a_busy_server_answers_503_and_504(settings: Settings, tmp_path: Path, held: Held) -> None:
    """One request is held in its forward pass, one waits in the queue, one is too many."""
    changed = {"data_dir": tmp_path, "queue_images": 2, "predict_timeout_s": 1.0}
    with serving(settings.model_copy(update=changed)) as small, ThreadPoolExecutor(2) as threads:
        first = threads.submit(small.http.post, URL, content=DISC)
        until(held.busy.is_set)
        second = threads.submit(small.http.post, URL, files=[("file", ("a", DISC)), ("file", ("b", SQUARE))])
        until(lambda: len(small.service.predictor._waiting) == 2)
        answer = small.http.post(URL, content=DISC)
        assert refusal(answer, 503)["detail"].startswith("2 images are waiting, allowed are 2")
        assert answer.headers["retry-after"] == "1"
        for late in (first.result(), second.result()):
            assert "no prediction within 1 s" in refusal(late, 504)["detail"]
        held.release.set()
        assert labels(small.http.post(URL, content=DISC)) == ["disc"]
