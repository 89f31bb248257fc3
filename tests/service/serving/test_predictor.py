"""The queue in front of a model: how waiting pictures become batches."""

import asyncio
from dataclasses import replace
from threading import Barrier, Event, current_thread

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

import models
from common.pictures import PictureError
from service.serving.deployments import ServingSettings
from service.serving.queue import Answer, ModelQueue, Picture
from tests.server import DEADLINE_S, until
from tests.service.held import Held
from tests.service.serving.predictions import IMAGES, Find, Start, classes, pictures


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


def test_a_gpu_is_given_all_that_waits(new: Start, find: Find, forwarded: list[int]) -> None:
    predictor = new(device="cuda", threads=2)
    plain = replace(find("tiny"), settings=ServingSettings(cuda_graphs=False))

    async def ask() -> list[Answer | PictureError]:
        asked = asyncio.ensure_future(predictor.predict(plain, pictures(*IMAGES, IMAGES[0])))
        await asyncio.sleep(0)
        await predictor.load(plain)
        await asyncio.to_thread(fill, predictor._queues[plain.key])
        predictor.start()
        return await asked

    assert classes(asyncio.run(ask())) == [0, 1, 2, 0]
    assert forwarded[1:] == [4]


def fill(queue: ModelQueue) -> None:
    """Decode what waits."""
    while queue.raw:
        item = queue.raw.popleft()
        assert item.decode() is None
        queue.ready.append(item)


def test_the_batch_behind_another_on_a_gpu_waits_for_what_is_decoded(
    new: Start, find: Find, forwarded: list[int]
) -> None:
    predictor, release, decoded = new(device="cuda", threads=4), Event(), Event()
    plain = replace(find("tiny"), settings=ServingSettings(cuda_graphs=False))

    def hold(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, models.Classifier) and len(inputs[0]) == 1:
            release.wait(DEADLINE_S)

    def slowly() -> Tensor:
        decoded.wait(DEADLINE_S)
        return IMAGES[2]

    async def ask() -> list[Answer | PictureError]:
        await predictor.load(plain)
        handle = register_module_forward_pre_hook(hold)
        queue = predictor._queues[plain.key]
        predictor.start()
        first = asyncio.ensure_future(predictor.predict(plain, pictures(IMAGES[0])))
        await asyncio.to_thread(until, lambda: queue.running == 1)
        others = [*pictures(IMAGES[1]), Picture(slowly)]
        second = asyncio.ensure_future(predictor.predict(plain, others))
        await asyncio.to_thread(until, lambda: queue.ready and queue.preparing == 1 and not queue.raw)
        assert queue.running == 1
        decoded.set()
        answers = await second
        assert not first.done()
        release.set()
        handle.remove()
        return [*await first, *answers]

    assert classes(asyncio.run(ask())) == [0, 1, 2]
    assert forwarded[1:] == [1, 2]


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

    asyncio.run(predictor.predict(find("tiny"), [Picture(lambda image=image: together(image)) for image in IMAGES[:2]]))
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
        asked = predictor.predict(find("tiny"), [*pictures(IMAGES[0]), Picture(broken), *pictures(IMAGES[2])])
        task = asyncio.ensure_future(asked)
        await asyncio.sleep(0)
        predictor.start()
        return await task

    good, bad, last = asyncio.run(ask())
    assert (classes([good, last]), str(bad)) == ([0, 2], "broken")
    assert forwarded[1:] == [2]
