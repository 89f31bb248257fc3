"""Pictures on their way to a model, and the queue of each model in which they wait."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

from torch import Tensor

from common.pictures import PictureError
from service.serving.deployments import Deployment
from service.serving.predictions import Ranked
from service.serving.runners.plain import Runner

NEWEST_WEIGHT = 0.3
"""Weight of the newest batch in the running mean of the seconds that a picture takes."""

Prepare = Callable[[], Tensor]
"""Makes the image (3, H, W): 8-bit pixels, scaled on the device, or float32 in [0, 1]; raises PictureError where there is none."""


LARGE_PIXELS = 1_000_000
"""Pixels of a request above which its pictures are large: decoding as many takes 7 to 30 ms, as long as several predictions."""


@dataclass(frozen=True)
class Picture:
    """A picture that was sent: what makes the image of it, the pixels to decode for that, and its file, if it is one."""

    prepare: Prepare
    pixels: int = 0
    data: bytes = b""


def count_pixels(pictures: Iterable[Picture]) -> int:
    """Count the pixels of a request."""
    return sum(each.pixels for each in pictures)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says of one picture, and where its time went, in seconds.

    Attributes:
        logits: (K,).
        ranked: its most probable classes, at least as many as were asked for.
        queue_s: it waited for a thread.
        preprocess_s: it was decoded, resized and cropped.
        forward_s: its batch was in the model.
        decoding_at: when its decoding began, by `time.perf_counter`.
        forward_at: when its batch went into the model.
        batch_images: pictures of the batch.
    """

    logits: Tensor
    ranked: Ranked
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


class Call:
    """The pictures of one request, and what became of them; its future belongs to an event loop, and is done once nobody waits.

    Args:
        pictures: how many.
        top_k: most probable classes to name.
    """

    def __init__(self, pictures: int, top_k: int) -> None:
        self.future: asyncio.Future[list[Answer | PictureError]] = asyncio.get_running_loop().create_future()
        self.top_k = top_k
        self._outcomes: dict[int, Answer | PictureError] = {}
        self._pictures = pictures

    def take(self, index: int, outcome: "Outcome") -> None:
        """Note what became of a picture; on the event loop."""
        if self.future.done():
            return
        if not isinstance(outcome, Answer | PictureError):
            self.future.set_exception(outcome)
            return
        self._outcomes[index] = outcome
        if len(self._outcomes) == self._pictures:
            self.future.set_result([self._outcomes[each] for each in range(self._pictures)])


@dataclass(slots=True)
class Item:
    """A picture on its way."""

    call: Call
    index: int
    prepare: Prepare
    large: bool = False
    since: float = field(default_factory=time.perf_counter)
    image: Tensor | None = None
    decoding_at: float = 0.0
    preprocess_s: float = 0.0

    @property
    def is_wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return not self.call.future.done()

    def decode(self) -> Exception | None:
        """Make the image, if somebody still waits for it; what is wrong with the picture is returned."""
        if not self.is_wanted:
            return None
        self.decoding_at = time.perf_counter()
        try:
            self.image = self.prepare()
        except Exception as error:
            return error
        self.preprocess_s = time.perf_counter() - self.decoding_at
        return None

    def answer(
        self, logits: Tensor, ranked: Ranked, *, forward_at: float, forward_s: float, batch_images: int
    ) -> Answer:
        """Say where its time went, now that its batch has been through the model."""
        return Answer(
            logits,
            ranked,
            queue_s=forward_at - self.since - self.preprocess_s,
            preprocess_s=self.preprocess_s,
            forward_s=forward_s,
            decoding_at=self.decoding_at,
            forward_at=forward_at,
            batch_images=batch_images,
        )


Outcome = Answer | BaseException
"""An answer, a broken picture, or an error."""


def hand_over(outcomes: Sequence[tuple[Item, Outcome]]) -> None:
    """Tell whoever waits what became of pictures, and wake each event loop once; from any thread."""
    of_loop: dict[asyncio.AbstractEventLoop, list[tuple[Item, Outcome]]] = {}
    for each in outcomes:
        of_loop.setdefault(each[0].call.future.get_loop(), []).append(each)
    for loop, own in of_loop.items():
        with suppress(RuntimeError):  # it has ended: nobody waits
            loop.call_soon_threadsafe(_take, own)


def _take(outcomes: Sequence[tuple[Item, Outcome]]) -> None:
    for item, outcome in outcomes:
        item.call.take(item.index, outcome)


def cancel(items: Iterable[Item]) -> None:
    """Tell whoever waits that there will be no answer; from any thread."""
    for item in items:
        with suppress(RuntimeError):
            item.call.future.get_loop().call_soon_threadsafe(item.call.future.cancel)


@dataclass
class ModelQueue:
    """One model, and the pictures that wait for it: as they came, and decoded."""

    deployment: Deployment
    most: int
    """Pictures of one batch."""
    loaded: "Future[Runner]" = field(default_factory=Future[Runner])
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
    def has_room(self) -> bool:
        """Whether another picture should be decoded: what is ready fills less than two batches."""
        return len(self.ready) < 2 * self.most

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

    def drop_cancelled(self) -> None:
        """Forget the pictures that nobody waits for any more."""
        self.raw, self.raw_large, self.ready = (
            deque(each for each in waiting if each.is_wanted) for waiting in (self.raw, self.raw_large, self.ready)
        )

    def took(self, image_s: float) -> None:
        """Remember how long a picture took, unless it was large."""
        weight = NEWEST_WEIGHT if self.image_s else 1.0
        self.image_s += weight * (image_s - self.image_s)
