"""All devices that answer predictions, behind one interface: the least loaded one takes a request."""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial

from common import UnknownNameError
from common.cores import cores
from common.pictures import PictureError
from evaluation import Catalog
from models import CheckpointError
from service.metrics import Metrics
from service.serving.admission import admit
from service.serving.deployments import Deployment, Deployments, ServingSettings
from service.serving.errors import KeyLimitError, OverloadedError, StuckError, TooLateError
from service.serving.limits import Limits
from service.serving.loading import load_served
from service.serving.predictor import Predictor
from service.serving.queue import LARGE_PIXELS, Answer, Picture, count_pixels
from service.serving.shared_counts import SharedCounts
from service.serving.spans import record_answers

LOOK_S = 5.0
"""How often to check that loaded models still exist, seconds."""

_log = logging.getLogger(__name__)


class Scheduler:
    """One predictor per device.

    Args:
        catalog: where checkpoints are.
        deployments: which of them answer for a name.
        devices: such as "cpu" or "cuda:0", each once.
        limits: of each device.
        metrics: where it counts.
        key_images: most pictures that one API key may have waiting; None is no limit of its own.
        pixels: most pixels that may wait to be decoded.
        key_pixels: most of them that one API key may have waiting; None is no limit of its own.
        counts: what waits in the other processes of the service, for which the limits hold too.
    """

    def __init__(
        self,
        catalog: Catalog,
        deployments: Deployments,
        devices: Sequence[str],
        *,
        limits: Limits,
        metrics: Metrics,
        key_images: int | None = None,
        pixels: int | None = None,
        key_pixels: int | None = None,
        counts: SharedCounts,
    ) -> None:
        self._catalog, self._deployments, self._metrics = catalog, deployments, metrics
        load = partial(load_served, catalog)
        self.predictors = {
            device: Predictor(device, load, limits, metrics, counts, threads=cores()) for device in devices
        }
        self._counts = counts
        self._key_images, self._pixels, self._key_pixels = key_images, pixels, key_pixels
        self._of_key, self._pixels_of_key = Counter[str](), Counter[str]()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to answer, and to load the models that are to be warm."""
        for predictor in self.predictors.values():
            predictor.start()
        for work in (self._unload_removed(), *map(self._warm, self._deployments.names())):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _warm(self, name: str) -> None:
        try:
            if self._deployments.settings(name).warm:
                await self.load(await asyncio.to_thread(self._deployments.find, name))
        except (CheckpointError, UnknownNameError) as error:
            _log.warning("%s is not warm: %s", name, error)

    async def _unload_removed(self) -> None:
        """Unload, as long as the service runs, what another process of it or the command removed."""
        while True:
            await asyncio.sleep(LOOK_S)
            for deployment in [each for predictor in self.predictors.values() for each in predictor.deployments]:
                if not await asyncio.to_thread(self._is_there, deployment):
                    self.unload(deployment)

    def _is_there(self, deployment: Deployment) -> bool:
        try:
            self._deployments.find(deployment.name, deployment.version)
        except UnknownNameError:
            return False
        except (CheckpointError, OSError) as error:  # it may be mended
            _log.warning("%s: %s", deployment.checkpoint, error)
        return True

    def stop(self) -> None:
        """End; what waits is cancelled."""
        for task in self._tasks:
            task.cancel()
        for predictor in self.predictors.values():
            predictor.stop()

    def require_room(self) -> None:
        """Refuse at once if no device could answer another picture soon.

        Raises:
            OverloadedError: none could.
        """
        min(self.predictors.values(), key=lambda each: each.expected_s).require_room()

    def choose(self, deployment: Deployment) -> Predictor:
        """Find the device that will be free first, among equals one that has the model loaded.

        Raises:
            CheckpointError: its settings ask for a device that is not here.
        """
        return min(self._allowed(deployment), key=lambda each: (each.expected_s, not each.is_loaded(deployment)))

    def _allowed(self, deployment: Deployment) -> list[Predictor]:
        device = deployment.settings.device
        if device is None:
            return list(self.predictors.values())
        if device not in self.predictors:
            known = ", ".join(self.predictors)
            raise CheckpointError(f"settings.device: {deployment.name} is to run on {device!r}; here are {known}")
        return [self.predictors[device]]

    async def predict(
        self,
        deployment: Deployment,
        pictures: Sequence[Picture],
        *,
        key: str = "",
        timeout_s: float | None = None,
        top_k: int = 0,
    ) -> list[Answer | PictureError]:
        """Answer for each picture; see `Predictor.predict`.

        Args:
            deployment: the model.
            pictures: what was sent.
            key: the API key of whoever asks.
            timeout_s: longest wait, if shorter than the service's own.
            top_k: most probable classes to name.

        Raises:
            OverloadedError: there is no room.
            KeyLimitError: the key has too many pictures, or pixels, waiting.
            TooLateError: there was no answer in time.
            CheckpointError: the model cannot be loaded.
        """
        outcomes = ["disconnected"] * len(pictures)
        pixels = count_pixels(pictures)
        self._count(key, len(pictures), pixels)
        try:
            self._require_room_for(key, pixels)
            predictor = self.choose(deployment)
            answers = await predictor.predict(deployment, pictures, timeout_s=timeout_s, top_k=top_k)
            outcomes = ["ok" if isinstance(each, Answer) else "invalid" for each in answers]
            record_answers(deployment, answers)
            return answers
        except Exception as error:
            outcomes = [_outcome(error)] * len(pictures)
            raise
        finally:
            self._count(key, -len(pictures), -pixels)
            for outcome, count in Counter(outcomes).items():
                self._metrics.predictions.labels(deployment.name, deployment.version, outcome).inc(count)

    def _count(self, key: str, pictures: int, pixels: int) -> None:
        self._of_key[key] += pictures
        self._pixels_of_key[key] += pixels
        self._counts.set(f"pictures of {key}", self._of_key[key])
        self._counts.set(f"pixels of {key}", self._pixels_of_key[key])
        self._counts.set("pixels", self._pixels_of_key.total())
        if not self._of_key[key]:
            del self._of_key[key], self._pixels_of_key[key]

    def _require_room_for(self, key: str, pixels: int) -> None:
        elsewhere = self._counts.elsewhere
        if key:
            self._require_few("pictures", self._of_key[key] + elsewhere(f"pictures of {key}"), self._key_images)
            self._require_few("pixels", self._pixels_of_key[key] + elsewhere(f"pixels of {key}"), self._key_pixels)
        waiting = self._pixels_of_key.total() + elsewhere("pixels")
        if self._pixels is not None and waiting > self._pixels and pixels > LARGE_PIXELS:
            self._metrics.refusals.labels("queue full").inc()
            message = f"{waiting} pixels would wait to be decoded, at most {self._pixels} are allowed; try again later"
            raise OverloadedError(message, retry_after_s=1)

    def _require_few(self, what: str, waiting: int, most: int | None) -> None:
        if most is None or waiting <= most:
            return
        self._metrics.refusals.labels("key over its limit").inc()
        message = f"this API key would have {waiting} {what} waiting, at most {most} are allowed; wait for answers"
        raise KeyLimitError(message, retry_after_s=1)

    def require_alive(self) -> None:
        """Check that some thread of every device could take on work.

        Raises:
            StuckError: all threads of a device have worked on one thing for longer than anybody waits.
        """
        for device, predictor in self.predictors.items():
            if predictor.stuck:
                raise StuckError(
                    f"every thread of {device} has been decoding one picture or running one batch for more than "
                    f"{predictor.limits.timeout_s:g} s; restart the service"
                )

    async def load(self, deployment: Deployment) -> None:
        """Load a model on every device that it may use.

        Raises:
            CheckpointError: it cannot be loaded.
        """
        await asyncio.gather(*(each.load(deployment) for each in self._allowed(deployment)))

    def unload(self, deployment: Deployment) -> None:
        """Forget a model on every device, once what waits for it is answered."""
        for predictor in self.predictors.values():
            predictor.unload(deployment)

    def loaded_on(self, deployment: Deployment) -> list[str]:
        """Name the devices that have it in memory."""
        return [device for device, each in self.predictors.items() if each.is_loaded(deployment)]

    def configure(self, name: str, settings: ServingSettings) -> None:
        """Change how a model is served; another precision or decoder must leave the answers on the model's own data.

        Raises:
            UnknownNameError: there is no such model or version.
            CheckpointError: the device is not here, the model cannot be loaded, or precision or decoder change too many answers.
        """
        proposed = self._deployments.proposed(name, settings)
        device = self._allowed(proposed)[0].device
        self._deployments.save(name, settings, admit(self._catalog, proposed, device))


def _outcome(error: Exception) -> str:
    """What became of pictures, as the metrics call it."""
    match error:
        case OverloadedError():
            return "rejected"
        case TooLateError():
            return "timeout"
        case _:
            return "error"
