"""The queue in front of a model: batches, overload, deadlines, replaced checkpoints."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Barrier, Event, current_thread
from time import sleep
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

import models
from common.pictures import PictureError, open_picture
from evaluation import Catalog
from service.metrics import Metrics
from service.serving import scheduler
from service.serving.deployments import Deployment, Deployments, ServingSettings
from service.serving.errors import OverloadedError, TooLateError
from service.serving.loading import load_served
from service.serving.predictor import Limits, Load, Predictor
from service.serving.queue import Answer, Prepare
from service.settings import Settings
from tests.conftest import Put
from tests.server import DEADLINE_S, serving, until
from tests.service.held import Held
from tests.service.pictures import DISC, SQUARE, STRIPES, URL, labels, refusal

Start = Callable[..., Predictor]


@pytest.fixture
def find(catalog: Catalog, tmp_path: Path) -> Callable[[str], Deployment]:
    return Deployments(catalog, tmp_path / "serving").find


@pytest.fixture
def new(catalog: Catalog) -> Iterator[Start]:
    """Make predictors on one core that are not started yet, with room for four."""
    made: list[Predictor] = []

    def new(*, threads: int = 1, load: Load | None = None, **limits: Any) -> Predictor:
        bounds = Limits(**{"images": 4, "timeout_s": DEADLINE_S} | limits)
        made.append(Predictor("cpu", load or partial(load_served, catalog), bounds, Metrics(), threads=threads))
        return made[-1]

    yield new
    for predictor in made:
        predictor.stop()


IMAGES = [models.Preprocessing(resize=32, crop=32)(open_picture(data)) for data in (DISC, SQUARE, STRIPES)]
Find = Callable[[str], Deployment]


def pictures(*images: Tensor) -> list[Prepare]:
    return [lambda image=image: image for image in images]


def classes(answers: Sequence[Answer | PictureError]) -> list[int]:
    return [int(each.logits.argmax()) for each in answers if isinstance(each, Answer)]


def test_what_waits_goes_through_the_model_as_one_batch(new: Start, find: Find, forwarded: list[int]) -> None:
    predictor = new()

    async def ask() -> list[list[Answer | PictureError]]:
        asked = [asyncio.ensure_future(predictor.predict(find("tiny"), pictures(image))) for image in IMAGES]
        await asyncio.sleep(0)  # each of them is in the queue now
        predictor.start()
        return await asyncio.gather(*asked)

    assert [classes(answer) for answer in asyncio.run(ask())] == [[0], [1], [2]]
    assert forwarded[1:] == [3], "one image to warm up, then all at once"


def test_a_batch_holds_no_more_than_the_settings_say(new: Start, find: Find, forwarded: list[int]) -> None:
    predictor, tiny = new(), find("tiny")
    few = replace(tiny, settings=ServingSettings(max_batch=2))

    async def ask() -> list[Answer | PictureError]:
        asked = asyncio.ensure_future(predictor.predict(few, pictures(*IMAGES)))
        await asyncio.sleep(0)
        predictor.start()
        return await asked

    assert classes(asyncio.run(ask())) == [0, 1, 2]
    assert forwarded[1:] == [2, 1]


def test_what_waits_is_shared_among_the_cores(new: Start, find: Find, forwarded: list[int], held: Held) -> None:
    predictor = new(threads=2)

    async def ask() -> list[Answer | PictureError]:
        asked = asyncio.ensure_future(predictor.predict(find("tiny"), pictures(*IMAGES, IMAGES[0])))
        await asyncio.sleep(0)
        predictor.start()
        await asyncio.to_thread(held.busy.wait, DEADLINE_S)
        held.release.set()
        return await asked

    assert classes(asyncio.run(ask())) == [0, 1, 2, 0]
    assert sorted(forwarded[1:]) in ([2, 2], [1, 3], [1, 1, 2]), "never all on one core while the other is free"


def test_a_lone_picture_has_all_cores_and_a_full_queue_one_each(new: Start, find: Find) -> None:
    seen: list[tuple[int, int]] = []
    predictor = new(threads=2)

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, models.Classifier) and current_thread().name.startswith("predictor"):
            seen.append((len(inputs[0]), torch.get_num_threads()))

    handle = register_module_forward_pre_hook(note)
    predictor.start()
    asyncio.run(predictor.predict(find("tiny"), pictures(IMAGES[0])))
    both = Barrier(2)

    def together(image: Tensor) -> Tensor:
        both.wait(DEADLINE_S)  # no picture is ready before each core has one
        return image

    asyncio.run(predictor.predict(find("tiny"), [lambda image=image: together(image) for image in IMAGES[:2]]))
    handle.remove()
    assert seen[0] == (1, 2)
    assert {threads for _, threads in seen[1:]} <= {1, 2}
    assert (1, 1) in seen[1:] or (2, 2) in seen[1:]


def test_models_are_not_mixed_in_a_batch(new: Start, find: Find, forwarded: list[int]) -> None:
    predictor = new()

    async def ask() -> None:
        names = ("tiny", "twin", "tiny")
        asked = [asyncio.ensure_future(predictor.predict(find(name), pictures(IMAGES[0]))) for name in names]
        await asyncio.sleep(0)
        predictor.start()
        await asyncio.gather(*asked)

    asyncio.run(ask())
    assert sorted(forwarded) == [1, 1, 1, 2], (
        "a warm-up for each of two models, two of one in a batch, one of the other"
    )


def test_a_broken_picture_does_not_take_its_batch_along(new: Start, find: Find, forwarded: list[int]) -> None:
    predictor = new()

    def broken() -> Tensor:
        raise PictureError("broken")

    async def ask() -> list[Answer | PictureError]:
        asked = predictor.predict(find("tiny"), [*pictures(IMAGES[0]), broken, *pictures(IMAGES[2])])
        task = asyncio.ensure_future(asked)
        await asyncio.sleep(0)
        predictor.start()
        return await task

    good, bad, last = asyncio.run(ask())
    assert (classes([good, last]), str(bad)) == ([0, 2], "broken")
    assert forwarded[1:] == [2]


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
        await predictor.predict(find("tiny"), [slow])
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
        asked = asyncio.ensure_future(predictor.predict(tiny, [slow], timeout_s=10))
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
        asked = asyncio.ensure_future(predictor.predict(mine, [slow], timeout_s=10))
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
        asked = asyncio.ensure_future(predictor.predict(find("tiny"), [slow], timeout_s=10))
        await asyncio.to_thread(slow.begun.wait, DEADLINE_S)
        stopping = asyncio.create_task(asyncio.to_thread(predictor.stop))
        await asyncio.to_thread(until, lambda: predictor._stopping)
        slow.release.set()
        await stopping
        with pytest.raises(asyncio.CancelledError):
            await asked

    asyncio.run(ask())
