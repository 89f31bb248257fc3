"""Models that are replaced, unloaded, forgotten or broken while pictures wait for them."""

import asyncio
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import models
from common.pictures import PictureError
from evaluation import Catalog
from service.serving.deployments import Deployment, Deployments
from service.serving.loading import load_served
from service.serving.queue import Answer, Picture
from tests.conftest import Put
from tests.server import DEADLINE_S, until
from tests.service.serving.predictions import IMAGES, Find, Start, classes, pictures


def test_a_model_that_fails_fails_alone(new: Start, find: Find) -> None:
    predictor = new()
    predictor.start()
    wide = torch.rand(5, 32, 32)
    with pytest.raises(RuntimeError):
        asyncio.run(predictor.predict(find("tiny"), pictures(wide)))
    assert classes(asyncio.run(predictor.predict(find("twin"), pictures(IMAGES[1])))) == [1]


def test_a_replaced_checkpoint_is_loaded_anew_and_a_broken_one_fails_alone(
    new: Start, put_checkpoint: Put, tmp_path: Path
) -> None:
    path = put_checkpoint(tmp_path, "mine")
    where = Catalog((tmp_path,), ())
    predictor, deployments = new(load=partial(load_served, where)), Deployments(where, tmp_path / "serving")
    predictor.start()

    def ask() -> Tensor:
        (answer,) = asyncio.run(predictor.predict(deployments.find("mine"), pictures(IMAGES[0])))
        assert isinstance(answer, Answer)
        return answer.logits

    before = ask()
    negated = {key: -value if key.startswith("fc.") else value for key, value in load_file(path).items()}
    assert any(key.startswith("fc.") for key in negated)
    save_file(negated, path)
    with pytest.raises(models.CheckpointError, match="its card says"):
        ask()
    card = models.ModelCard.model_validate_json(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(card.model_copy(update={"sha256": None}).model_dump_json())
    assert torch.allclose(ask(), -before, atol=1e-4)


def test_models_used_longest_ago_make_room(new: Start, find: Find, catalog: Catalog) -> None:
    tiny, twin = find("tiny"), find("twin")
    probe = load_served(catalog, tiny, "cpu")
    size = sum(each.nbytes for each in (*probe.parameters(), *probe.buffers()))
    predictor = new(memory_bytes=size * 3 // 2)  # both are of one size
    predictor.start()

    def ask(deployment: Deployment) -> None:
        asyncio.run(predictor.predict(deployment, pictures(IMAGES[0])))

    ask(tiny)
    assert predictor.is_loaded(tiny)
    ask(twin)
    assert (predictor.is_loaded(tiny), predictor.is_loaded(twin)) == (False, True)
    ask(tiny)
    assert (predictor.is_loaded(tiny), predictor.is_loaded(twin)) == (True, False)


def test_an_unloaded_model_answers_what_waits_and_is_forgotten_then(new: Start, find: Find) -> None:
    predictor, tiny = new(), find("tiny")

    async def ask() -> None:
        await predictor.load(tiny)
        assert predictor.is_loaded(tiny)
        waits = asyncio.ensure_future(predictor.predict(tiny, pictures(*IMAGES)))
        await asyncio.sleep(0)
        predictor.unload(tiny)
        assert predictor.is_loaded(tiny), "somebody waits for it"
        predictor.start()
        assert classes(await waits) == [0, 1, 2]
        await asyncio.to_thread(until, lambda: not predictor.is_loaded(tiny))
        assert classes(await predictor.predict(tiny, pictures(IMAGES[1]))) == [1]
        assert predictor.is_loaded(tiny)

    asyncio.run(ask())


@dataclass
class Slow:
    """A picture whose decoding waits until it is released."""

    image: Tensor
    begun: Event = field(default_factory=Event)
    release: Event = field(default_factory=Event)

    def __call__(self) -> Tensor:
        self.begun.set()
        self.release.wait(DEADLINE_S)
        return self.image


def test_a_picture_being_decoded_keeps_its_model_from_being_forgotten(new: Start, find: Find) -> None:
    predictor, tiny, slow = new(), find("tiny"), Slow(IMAGES[1])
    predictor.start()

    async def ask() -> list[Answer | PictureError]:
        await predictor.load(tiny)
        asked = asyncio.ensure_future(predictor.predict(tiny, [Picture(slow)], timeout_s=10))
        await asyncio.to_thread(slow.begun.wait, DEADLINE_S)
        predictor.unload(tiny)
        slow.release.set()
        return await asked

    assert classes(asyncio.run(ask())) == [1]
    until(lambda: not predictor.is_loaded(tiny))


def test_a_picture_decoded_for_a_model_that_failed_to_load_is_told_why(
    new: Start, put_checkpoint: Put, tmp_path: Path
) -> None:
    path = put_checkpoint(tmp_path, "mine")
    where, slow = Catalog((tmp_path,), ()), Slow(IMAGES[0])

    def load_late(deployment: Deployment, device: str) -> models.Classifier:
        assert slow.begun.wait(DEADLINE_S)
        return load_served(where, deployment, device)

    predictor, mine = new(load=load_late), Deployments(where, tmp_path / "serving").find("mine")
    path.write_bytes(b"broken")
    predictor.start()

    async def ask() -> None:
        asked = asyncio.ensure_future(predictor.predict(mine, [Picture(slow)], timeout_s=10))
        await asyncio.to_thread(slow.begun.wait, DEADLINE_S)
        await asyncio.to_thread(until, lambda: not predictor._queues)
        slow.release.set()
        await asked

    with pytest.raises(models.CheckpointError):
        asyncio.run(ask())


def test_a_picture_being_decoded_when_it_all_ends_is_cancelled(new: Start, find: Find) -> None:
    predictor, slow = new(), Slow(IMAGES[0])
    predictor.start()

    async def ask() -> None:
        asked = asyncio.ensure_future(predictor.predict(find("tiny"), [Picture(slow)], timeout_s=10))
        await asyncio.to_thread(slow.begun.wait, DEADLINE_S)
        stopping = asyncio.create_task(asyncio.to_thread(predictor.stop))
        await asyncio.to_thread(until, lambda: predictor._stopping)
        slow.release.set()
        await stopping
        with pytest.raises(asyncio.CancelledError):
            await asked

    asyncio.run(ask())
