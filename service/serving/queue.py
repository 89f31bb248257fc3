"""Pictures on their way to a model, and the queue of each model in which they wait."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor

import models
from common.pictures import PictureError
from service.serving.deployments import Deployment

NEWEST_WEIGHT = 0.3
"""Weight of the newest batch in the running mean of the seconds that a picture takes."""

Prepare = Callable[[], Tensor]
"""Makes the image (3, H, W) that the model takes, in [0, 1]; raises PictureError where there is none."""


LARGE_PIXELS = 1_000_000
"""Pixels of a request above which its pictures are large: decoding as many takes 7 to 30 ms, as long as several predictions."""


@dataclass(frozen=True)
class Picture:
    """A picture that was sent: what makes the image of it, and the pixels to decode for that."""

    prepare: Prepare
    pixels: int = 0


def count_pixels(pictures: Iterable[Picture]) -> int:
    """Count the pixels of a request."""
    return sum(each.pixels for each in pictures)


@dataclass(frozen=True)
class Answer:
    """One picture's logits (K,), where its time went, in seconds, and when, by `time.perf_counter`."""

    logits: Tensor
    queue_s: float
    preprocess_s: float
    forward_s: float
    decoding_at: float
    forward_at: float
    batch_images: int

    @property
    def queued_at(self) -> float:
        """When it took its place in the queue."""
        return self.forward_at - self.preprocess_s - self.queue_s

    @property
    def prepared_at(self) -> float:
        """When it was ready for the model."""
        return self.decoding_at + self.preprocess_s


@dataclass
class Item:
    """A picture on its way. Its future belongs to an event loop, and is done early once nobody waits for it."""

    prepare: Prepare
    future: "asyncio.Future[Answer | PictureError]"
    large: bool = False
    since: float = field(default_factory=time.perf_counter)
    image: Tensor = field(default_factory=lambda: torch.empty(0))
    decoding_at: float = 0.0
    preprocess_s: float = 0.0

    def decode(self) -> bool:
        """Make the image, if somebody still waits for it; what is wrong with the picture is handed over."""
        if self.future.done():
            return False
        self.decoding_at = time.perf_counter()
        try:
            self.image = self.prepare()
        except Exception as error:
            self.settle(error)
            return False
        self.preprocess_s = time.perf_counter() - self.decoding_at
        return True

    def answer(self, logits: Tensor, *, forward_at: float, forward_s: float, batch_images: int) -> Answer:
        """Say where its time went, now that its batch has been through the model."""
        queue_s = forward_at - self.since - self.preprocess_s
        return Answer(logits, queue_s, self.preprocess_s, forward_s, self.decoding_at, forward_at, batch_images)

    def settle(self, answer: "Answer | BaseException") -> None:
        """Hand over an answer, a broken picture, or an error; from any thread."""
        with suppress(RuntimeError):  # the loop has ended: nobody waits
            self.future.get_loop().call_soon_threadsafe(self._settle, answer)

    def cancel(self) -> None:
        """Tell whoever waits that there will be no answer; from any thread."""
        with suppress(RuntimeError):
            self.future.get_loop().call_soon_threadsafe(self.future.cancel)

    def _settle(self, answer: "Answer | BaseException") -> None:
        if self.future.done():
            return
        if isinstance(answer, Answer | PictureError):
            self.future.set_result(answer)
        else:
            self.future.set_exception(answer)


@dataclass
class ModelQueue:
    """One model, and the pictures that wait for it: as they came, and decoded."""

    deployment: Deployment
    most: int
    """Pictures of one batch."""
    loaded: "Future[models.Classifier]" = field(default_factory=Future[models.Classifier])
    size_bytes: int = 0
    raw: deque[Item] = field(default_factory=deque[Item])
    raw_large: deque[Item] = field(default_factory=deque[Item])
    preparing: int = 0
    preparing_large: int = 0
    ready: deque[Item] = field(default_factory=deque[Item])
    running: int = 0
    image_s: float = 0.0
    retired: bool = False

    @property
    def usable(self) -> bool:
        """Whether its model is in memory."""
        return self.loaded.done() and not self.failure

    @property
    def failure(self) -> BaseException | None:
        """Why its model could not be loaded."""
        return self.loaded.exception() if self.loaded.done() else None

    @property
    def waiting(self) -> int:
        """Pictures that are in no batch yet."""
        return self.waiting_small + self.waiting_large

    @property
    def waiting_large(self) -> int:
        """Those of them that are large, and not decoded."""
        return len(self.raw_large) + self.preparing_large

    @property
    def waiting_small(self) -> int:
        """Those of them that are not large, or decoded."""
        return len(self.raw) + self.preparing + len(self.ready)

    @property
    def items(self) -> tuple[Item, ...]:
        """The pictures that nobody works on."""
        return (*self.raw, *self.raw_large, *self.ready)

    def took(self, image_s: float) -> None:
        """Remember how long a picture took, unless it was large."""
        weight = NEWEST_WEIGHT if self.image_s else 1.0
        self.image_s += weight * (image_s - self.image_s)
