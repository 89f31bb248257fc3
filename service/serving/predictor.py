"""Predictions on one device: pictures wait in a bounded queue, and whatever waits when the device is free is one batch.

Threads of one kind do all the work, and no timer holds anything back. A thread that is free decodes the next picture that waits,
or, once there is nothing left to decode or a batch is full, takes its share of what is decoded through the model. On a CPU as
many batches run at once as there are cores, one thread of torch each; a picture that is alone has all cores. A GPU runs one batch,
while the other threads decode. Requests of many pixels are decoded by as many threads of low priority: they take what is left.
"""

import asyncio
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Condition, RLock, Thread

import torch

import models
from common.cores import give_way
from common.pictures import PictureError
from service.metrics import Metrics
from service.serving.deployments import Deployment
from service.serving.devices import device_of
from service.serving.errors import OverloadedError, TooLateError
from service.serving.gauges import Gauges
from service.serving.limits import Limits
from service.serving.queue import (
    LARGE_PIXELS,
    Answer,
    Call,
    Item,
    ModelQueue,
    Picture,
    cancel,
    count_pixels,
    hand_over,
)
from service.serving.runners.on_stream import LANES
from service.serving.shared_counts import SharedCounts

LONGEST_STOP_S = 2.0
"""How long to wait for threads to end: what hangs in a decoder or a model ends with the process."""

LONGEST_RETRY_S = 60

Load = Callable[[Deployment, str], models.Classifier]
"""Loads a deployment on a device."""

_log = logging.getLogger(__name__)


class Predictor:
    """The threads, queue and loaded models of one device.

    Args:
        device: such as "cpu" or "cuda:1".
        threads: how many work; on a CPU, cores.
        load: how a deployment is loaded.
        limits: what it may hold.
        metrics: where it counts.
        counts: what waits for the device in the other processes of the service.
    """

    def __init__(
        self, device: str, load: Load, limits: Limits, metrics: Metrics, counts: SharedCounts, *, threads: int
    ) -> None:
        self.device, self.limits = device, limits
        self._device, self._load, self._metrics = device_of(device), load, metrics
        self._gauges = Gauges(device, metrics, counts)
        self._on_cpu = device.partition(":")[0] == "cpu"
        self._free = self._slots = threads if self._on_cpu else LANES
        self._queues = OrderedDict[tuple[str, str, str, bool], ModelQueue]()  # the one that ran longest ago first
        lock = RLock()
        self._changed, self._large_changed = Condition(lock), Condition(lock)  # one for each kind of thread
        self._stopping = self._someone_left = False
        self._busy_since: dict[int, float] = {}
        self._threads = [Thread(target=self._work, name=f"predictor {device}", daemon=True) for _ in range(threads)]
        self._large_threads = [
            Thread(target=self._work_on_large, name=f"large pictures {device}", daemon=True) for _ in range(threads)
        ]
        self._loader = ThreadPoolExecutor(1, f"loader {device}")

    def start(self) -> None:
        """Begin to answer."""
        for thread in (*self._threads, *self._large_threads):
            thread.start()

    def stop(self) -> None:
        """End; what waits is cancelled, what runs is finished if it does not take long."""
        with self._changed:
            self._stopping = True
            for queue in self._queues.values():
                cancel(queue.items)
                queue.raw.clear()
                queue.raw_large.clear()
                queue.ready.clear()
            self._changed.notify_all()
            self._large_changed.notify_all()
        self._loader.shutdown(wait=False, cancel_futures=True)
        end = time.monotonic() + LONGEST_STOP_S
        for thread in (*self._threads, *self._large_threads):
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))

    @property
    def stuck(self) -> bool:
        """Whether every thread has worked on one thing for longer than anybody waits."""
        since = tuple(self._busy_since.values())
        return len(since) == len(self._threads) and time.monotonic() - max(since) > self.limits.timeout_s

    @property
    def waiting(self) -> int:
        """Pictures that wait."""
        return sum(queue.waiting for queue in tuple(self._queues.values()))

    @property
    def expected_s(self) -> float:
        """Seconds until what waits and runs now, but for large pictures, will be done; known once its models have run."""
        queues = tuple(self._queues.values())
        return sum((queue.waiting_small + queue.running) * queue.image_s for queue in queues) / self._slots

    def require_room(self, pictures: int = 1, *, large: bool = False) -> None:
        """Refuse at once what could not be answered soon; large pictures take no room from others.

        Raises:
            OverloadedError: the queue is full; it says when it will be empty.
        """
        if self._has_room(pictures, large=large) or (self._drop_cancelled() and self._has_room(pictures, large=large)):
            return
        waiting, expected_s = self.waiting, self.expected_s
        self._metrics.refusals.labels("queue full").inc()
        detail = (
            f"{waiting} pictures are waiting, which takes about {expected_s:.1f} s; "
            f"at most {self.limits.images} pictures and {self.limits.wait_s:g} s are allowed; try again later"
        )
        retry_s = min(LONGEST_RETRY_S, max(1, math.ceil(expected_s)))
        raise OverloadedError(detail, retry_after_s=retry_s)

    def _has_room(self, pictures: int, *, large: bool) -> bool:
        queues = tuple(self._queues.values())
        waiting = sum(queue.waiting_large if large else queue.waiting_small for queue in queues)
        waiting += self._gauges.waiting_elsewhere(large=large)
        if waiting + pictures > self.limits.images:
            return False
        return large or not waiting or self.expected_s <= self.limits.wait_s

    async def predict(
        self, deployment: Deployment, pictures: Sequence[Picture], *, timeout_s: float | None = None, top_k: int = 0
    ) -> list[Answer | PictureError]:
        """Answer for each picture, or say what is wrong with it; a cancelled call leaves the queue.

        Args:
            deployment: the model.
            pictures: what was sent; images are made on one of the threads.
            timeout_s: longest wait, if shorter than the limit.
            top_k: most probable classes to name; the logits are answered in any case.

        Raises:
            OverloadedError: the queue is full.
            TooLateError: there was no answer in time.
            CheckpointError: the model cannot be loaded.
        """
        timeout_s = min(timeout_s or math.inf, self.limits.timeout_s)
        call = self._enqueue(deployment, pictures, top_k)
        try:
            async with asyncio.timeout(timeout_s):
                return await call.future
        except TimeoutError:
            self._metrics.refusals.labels("deadline").inc()
            raise TooLateError(f"no prediction within {timeout_s:g} s; the request was dropped") from None
        finally:
            call.future.cancel()  # what nobody waits for any more is not computed
            self._someone_left |= call.future.cancelled()

    async def load(self, deployment: Deployment) -> None:
        """Load a model now, if it is not loaded.

        Raises:
            CheckpointError: it cannot be loaded.
        """
        with self._changed:
            queue = self._queue(deployment)
        await asyncio.wrap_future(queue.loaded)

    def unload(self, deployment: Deployment) -> None:
        """Forget a model, once what waits for it is answered."""
        with self._changed:
            if queue := self._queues.get(deployment.key):
                queue.retired = True
                self._retire(queue)

    @property
    def deployments(self) -> list[Deployment]:
        """The models in memory, and those that are being loaded."""
        return [queue.deployment for queue in tuple(self._queues.values())]

    def is_loaded(self, deployment: Deployment) -> bool:
        """Whether a model is in memory and warm."""
        queue = self._queues.get(deployment.key)
        return queue is not None and queue.usable

    def _enqueue(self, deployment: Deployment, pictures: Sequence[Picture], top_k: int) -> Call:
        call, large = Call(len(pictures), top_k), count_pixels(pictures) > LARGE_PIXELS
        prepared = [self._device.prepare(deployment, each) for each in pictures]
        items = [Item(call, index, prepare, large) for index, prepare in enumerate(prepared)]
        with self._changed:
            self.require_room(len(items), large=large)
            queue = self._queue(deployment)
            (queue.raw_large if large else queue.raw).extend(items)
            (self._large_changed if large else self._changed).notify()
            self._gauges.count_images(self._queues.values())
        return call

    def _drop_cancelled(self) -> bool:
        """Make room where clients have left; False if none have."""
        if not self._someone_left:
            return False
        with self._changed:
            self._someone_left = False
            for queue in self._queues.values():
                queue.drop_cancelled()
            self._large_changed.notify()  # there may be room for large ones now
        return True

    def _queue(self, deployment: Deployment) -> ModelQueue:
        """The queue of a model; a new one begins to load."""
        queue = self._queues.get(deployment.key)
        if queue is None:
            by_size = max(1, self._device.batch_pixels // deployment.card.preprocessing.crop**2)
            queue = self._queues[deployment.key] = ModelQueue(deployment, deployment.settings.max_batch or by_size)
            self._loader.submit(self._load_queue, queue)
        queue.retired = False
        return queue

    def _load_queue(self, queue: ModelQueue) -> None:
        try:
            runner = self._device.runner(queue.deployment, self._load(queue.deployment, self.device), queue.most)
        except Exception as error:  # the model's fault; the others go on
            _log.warning("%s: %s", queue.deployment.checkpoint, error)
            with self._changed:
                del self._queues[queue.deployment.key]
                queue.loaded.set_exception(error)
                hand_over([(item, error) for item in queue.items])
            return
        with self._changed:
            queue.size_bytes = runner.size_bytes
            queue.loaded.set_result(runner)
            self._make_room(queue)
            self._changed.notify()
            self._gauges.count_models(self._queues.values())

    def _make_room(self, newest: ModelQueue) -> None:
        """Forget models that nobody asks for, the one that ran longest ago first, until the rest fits; the newest stays."""
        for queue in tuple(self._queues.values()):
            if sum(each.size_bytes for each in self._queues.values()) <= self.limits.memory_bytes:
                return
            if queue is not newest:
                queue.retired = True
                self._retire(queue)

    def _retire(self, queue: ModelQueue) -> None:
        if queue.retired and queue.usable and not queue.waiting and not queue.running:
            del self._queues[queue.deployment.key]
            self._gauges.count_models(self._queues.values())

    def _work(self) -> None:
        thread = threading.get_ident()
        while job := self._next_job():
            self._busy_since[thread] = time.monotonic()
            job()
            del self._busy_since[thread]

    def _work_on_large(self) -> None:
        give_way()
        while job := self._next_large():
            job()

    def _next_large(self) -> Callable[[], None] | None:
        """Wait for a large picture to decode; None when it is time to stop."""
        with self._changed:
            while not self._stopping:
                if job := self._take_large():
                    if any(map(_has_large, self._queues.values())):
                        self._large_changed.notify()
                    return job
                self._large_changed.wait()
            return None

    def _take_large(self) -> Callable[[], None] | None:
        for queue in filter(_has_large, self._queues.values()):
            queue.preparing_large += 1
            return partial(self._prepare, queue, queue.raw_large.popleft())
        return None

    def _next_job(self) -> Callable[[], None] | None:
        """Wait for something to do, a batch to run or a picture to decode, and wake one thread if there is more; None to stop."""
        with self._changed:
            while not self._stopping:
                if job := self._take_job():
                    if any(map(self._has_job, self._queues.values())):
                        self._changed.notify()
                    return job
                self._changed.wait()
            return None

    def _take_job(self) -> Callable[[], None] | None:
        for queue in filter(self._has_job, self._queues.values()):
            if self._is_ripe(queue):
                return self._take_batch(queue)
            queue.preparing += 1
            return partial(self._prepare, queue, queue.raw.popleft())
        return None

    def _has_job(self, queue: ModelQueue) -> bool:
        return bool(queue.raw and queue.has_room) or self._is_ripe(queue)

    def _is_ripe(self, queue: ModelQueue) -> bool:
        """Whether decoded pictures should run now: nothing is left to decode, a batch is full, or a GPU has nothing to do."""
        if not (queue.ready and self._free and queue.usable):
            return False
        if self._on_cpu:
            return not queue.raw or len(queue.ready) >= queue.most
        return self._free == self._slots or not (queue.raw or queue.preparing) or len(queue.ready) >= queue.most

    def _take_batch(self, queue: ModelQueue) -> Callable[[], None]:
        """Take what is ready, as far as a batch goes, and leave an equal share to each other free thread of a CPU."""
        share = min(queue.most, math.ceil(len(queue.ready) / (self._free if self._on_cpu else 1)))
        batch = [queue.ready.popleft() for _ in range(share)]
        alone = self._free == self._slots and not self.waiting
        self._free -= 1
        queue.running += len(batch)
        if queue.raw_large:
            self._large_changed.notify()
        self._queues.move_to_end(queue.deployment.key)
        self._gauges.count_images(self._queues.values())
        return partial(self._run, queue, batch, len(self._threads) if alone else 1)

    def _prepare(self, queue: ModelQueue, item: Item) -> None:
        failure = item.decode()
        with self._changed:
            if item.large:
                queue.preparing_large -= 1
                self._changed.notify()  # this thread runs no batches
            else:
                queue.preparing -= 1
            failure = failure or queue.failure
            if self._stopping:
                cancel([item])
            elif failure:
                hand_over([(item, failure)])
            elif item.image is not None:
                queue.ready.append(item)
            self._retire(queue)

    def _run(self, queue: ModelQueue, batch: Sequence[Item], threads: int) -> None:
        wanted = [item for item in batch if item.is_wanted]
        try:
            if wanted:
                self._answer(queue, wanted, threads)
        except Exception as error:  # the model's fault; the thread goes on
            _log.warning("%s: %s", queue.deployment.checkpoint, error)
            hand_over([(item, error) for item in wanted])
        finally:
            with self._changed:
                self._free += 1
                queue.running -= len(batch)
                self._gauges.count_images(self._queues.values())
                self._retire(queue)

    def _answer(self, queue: ModelQueue, items: Sequence[Item], threads: int) -> None:
        if self._on_cpu and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)  # of this thread alone
        began = time.perf_counter()
        images = [item.image for item in items if item.image is not None]
        logits, ranked = queue.loaded.result()(images, max(item.call.top_k for item in items))
        forward_s = time.perf_counter() - began
        queue.took((forward_s + sum(item.preprocess_s for item in items if not item.large)) / len(items))
        answers = [
            item.answer(row, classes, forward_at=began, forward_s=forward_s, batch_images=len(items))
            for item, row, classes in zip(items, logits, ranked, strict=True)
        ]
        hand_over(list(zip(items, answers, strict=True)))
        self._observe(queue.deployment.name, answers, forward_s)

    def _observe(self, model: str, answers: Sequence[Answer], forward_s: float) -> None:
        metrics = self._metrics
        metrics.batch_images.labels(model).observe(len(answers))
        metrics.forward_seconds.labels(model).observe(forward_s)
        for answer in answers:
            metrics.queue_seconds.labels(model).observe(answer.queue_s)
            metrics.preprocess_seconds.labels(model).observe(answer.preprocess_s)


def _has_large(queue: ModelQueue) -> bool:
    return bool(queue.raw_large) and queue.has_room
