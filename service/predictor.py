"""Predictions: pictures wait in a bounded queue, and whatever waits when the device is free goes through it as one batch."""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future
from http import HTTPStatus
from threading import Condition, Thread

import torch
from torch import Tensor

import models
from evaluation import Catalog
from evaluation.runner import BATCH_PIXELS
from service.errors import ServiceError

MODELS_KEPT = 4
"""Classifiers that stay loaded; the one used longest ago is dropped first."""

RETRY_AFTER_S = 1

_log = logging.getLogger(__name__)
_Work = tuple[str, Tensor, "Future[Tensor]"]


class Predictor:
    """One thread and one queue for a device.

    Args:
        catalog: where models are found.
        device: where they run.
        queue_images: most images waiting; more are refused at once.
        timeout_s: longest wait for an answer, seconds.
    """

    def __init__(self, catalog: Catalog, device: str, *, queue_images: int, timeout_s: float) -> None:
        self._catalog, self._device = catalog, device
        self._queue_images, self._timeout_s = queue_images, timeout_s
        self._waiting: deque[_Work] = deque()
        self._changed = Condition()
        self._stopping = False
        self._loaded: OrderedDict[tuple[str, str], models.Classifier] = OrderedDict()
        self._thread = Thread(target=self._run, name="predictor", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End; what waits is cancelled."""
        with self._changed:
            self._stopping = True
            for _, _, future in self._waiting:
                future.cancel()
            self._waiting.clear()
            self._changed.notify()
        self._thread.join()

    async def predict(self, model: str, images: Sequence[Tensor]) -> list[Tensor]:
        """Compute the logits (K,) of each preprocessed image (3, H, W).

        Raises:
            ServiceError: the queue is full (503), or there was no answer in time (504).
            CheckpointError: the model cannot be loaded.
        """
        futures = self._enqueue(model, images)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.gather(*map(asyncio.wrap_future, futures))
        except TimeoutError:
            detail = f"no prediction within {self._timeout_s:g} s; the request was dropped"
            raise ServiceError(HTTPStatus.GATEWAY_TIMEOUT, detail) from None
        finally:
            for future in futures:
                future.cancel()  # what the client no longer waits for is not computed

    def _enqueue(self, model: str, images: Sequence[Tensor]) -> "list[Future[Tensor]]":
        futures = [Future[Tensor]() for _ in images]
        with self._changed:
            if len(self._waiting) + len(images) > self._queue_images:
                self._waiting = deque(work for work in self._waiting if not work[2].cancelled())
            if len(self._waiting) + len(images) > self._queue_images:
                detail = f"{len(self._waiting)} images are waiting, allowed are {self._queue_images}; try again later"
                raise ServiceError(HTTPStatus.SERVICE_UNAVAILABLE, detail, retry_after_s=RETRY_AFTER_S)
            self._waiting.extend((model, image, future) for image, future in zip(images, futures, strict=True))
            self._changed.notify()
        return futures

    def _run(self) -> None:
        while batch := self._next_batch():
            model = batch[0][0]
            wanted = [(image, future) for _, image, future in batch if future.set_running_or_notify_cancel()]
            if not wanted:
                continue
            try:
                logits = self._forward(model, [image for image, _ in wanted])
            except Exception as error:  # the model's fault; the thread goes on
                _log.warning("%s: %s", model, error)
                for _, future in wanted:
                    future.set_exception(error)
                continue
            for row, (_, future) in zip(logits, wanted, strict=True):
                future.set_result(row)

    def _next_batch(self) -> list[_Work]:
        """Wait for work; take what waits for one model, as far as it fits in a batch. Empty when it is time to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping)
            if self._stopping:
                return []
            model, image, _ = self._waiting[0]
            most = max(1, BATCH_PIXELS // image[0].numel())
            batch: list[_Work] = []
            while self._waiting and self._waiting[0][0] == model and len(batch) < most:
                batch.append(self._waiting.popleft())
            return batch

    def _forward(self, model: str, images: Sequence[Tensor]) -> Tensor:
        with torch.inference_mode():
            return self._classifier(model)(torch.stack(list(images)).to(self._device)).float().cpu()

    def _classifier(self, model: str) -> models.Classifier:
        key = model, self._catalog.model_sha256(model)
        if key not in self._loaded:
            self._loaded[key] = self._catalog.load_model(model, self._device)
        self._loaded.move_to_end(key)
        while len(self._loaded) > MODELS_KEPT:
            self._loaded.popitem(last=False)
        return self._loaded[key]
