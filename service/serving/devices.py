"""What devices do differently for predictions: how a loaded model is run, and how pictures are decoded."""

import logging
from functools import cached_property, partial
from queue import Empty, SimpleQueue

import torch
from torch import Tensor

import models
from service.serving.deployments import Deployment
from service.serving.queue import Picture, Prepare
from service.serving.runners.on_stream import OnStream
from service.serving.runners.plain import Plain, Runner
from service.serving.runners.tensor_decoder import TensorDecoder

LARGEST_BATCH = 64
"""Images of the largest batch that is captured: beyond, starting kernels one by one costs little beside what they compute."""

STREAMS = 16
"""Models of a device that can be captured at a time. Each has a stream of its own: the end of its graphs frees workspaces of all on
its stream, and nothing else may run there during a capture. PyTorch has 32 for each priority."""

FIRST = -1
"""Priority of streams: before those of evaluations, explanations and models that are not captured."""

_log = logging.getLogger(__name__)


class Device:
    """A device for which nothing is special, such as a CPU.

    Args:
        name: such as "cpu".
    """

    batch_pixels = 8 * 224**2
    """Height times width times pictures of one batch, where a model's settings do not say: more would hardly be faster."""

    def __init__(self, name: str) -> None:
        self.name = name

    def runner(self, deployment: Deployment, classifier: models.Classifier, most: int) -> Runner:
        """Prepare a loaded model for batches of up to `most` pictures."""
        del deployment, most
        return Plain(classifier)

    def prepare(self, deployment: Deployment, picture: Picture) -> Prepare:
        """Choose what makes the image of a picture."""
        del deployment
        return picture.prepare


class Gpu(Device):
    """An NVIDIA GPU: models are captured as CUDA graphs, and JPEGs decoded there, if a model's settings ask for it."""

    batch_pixels = 64 * 224**2

    @cached_property
    def _streams(self) -> SimpleQueue[torch.cuda.Stream]:
        streams: SimpleQueue[torch.cuda.Stream] = SimpleQueue()
        for _ in range(STREAMS):
            streams.put(torch.cuda.Stream(self.name, priority=FIRST))
        return streams

    @cached_property
    def _decoder(self) -> TensorDecoder:
        return TensorDecoder(self.name)

    def runner(self, deployment: Deployment, classifier: models.Classifier, most: int) -> Runner:
        """Capture a model, or run it as it is, where it cannot be captured or its settings do not want it."""
        plain = Plain(classifier)
        if not deployment.settings.cuda_graphs or deployment.card.architecture in models.OPAQUE:
            return plain
        try:
            made = OnStream(plain, classifier, min(most, LARGEST_BATCH), self._streams)
        except (RuntimeError, Empty) as error:  # anything PyTorch raises, also lack of memory
            reason = str(error).partition("\n")[0] or f"{STREAMS} models are captured already"
            _log.warning("%s runs without CUDA graphs on %s: %s", deployment.checkpoint, self.name, reason)
            return plain
        mib = made.graph_bytes / 2**20
        _log.info(
            "%s: CUDA graphs for %s images take %.0f MiB on %s", deployment.checkpoint, made.sizes, mib, self.name
        )
        return made

    def prepare(self, deployment: Deployment, picture: Picture) -> Prepare:
        """Decode with nvJPEG what it can decode, if the model's settings say so."""
        if deployment.settings.decoder == "cpu" or not picture.pixels:
            return picture.prepare
        return partial(self._decode, picture, deployment.card.preprocessing)

    def _decode(self, picture: Picture, preprocessing: models.Preprocessing) -> Tensor:
        image = self._decoder(picture.data, preprocessing)
        return picture.prepare() if image is None else image


def device_of(name: str) -> Device:
    """The device of a name, such as "cuda:1"."""
    return Gpu(name) if name.partition(":")[0] == "cuda" else Device(name)
