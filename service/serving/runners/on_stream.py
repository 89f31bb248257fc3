"""A captured model on a GPU, with the copies of its batches."""

from collections.abc import Sequence
from functools import partial
from queue import SimpleQueue
from threading import Lock
from weakref import finalize

import torch
from torch import Tensor

import models
from common.cuda_graphs import RecorderOnGpu
from service.serving.predictions import pairs, rank
from service.serving.runners.captured import RANKED, Captured, Run, Scores, score
from service.serving.runners.plain import Classified, Plain

LANES = 2
"""Batches on the way at a time: one is computed, one is copied."""


class OnStream:
    """Runs a captured model on a stream of its own: while one batch is computed, the next is copied to the GPU.

    Args:
        plain: runs the batches that do not fit the graphs: those of float32 images, or of more than `most`.
        classifier: the model, on a GPU.
        most: images of the largest batch that is captured.
        streams: one is taken, and given back in the end.

    Raises:
        RuntimeError: the model cannot be captured.
        Empty: no stream is left.
    """

    def __init__(
        self, plain: Plain, classifier: models.Classifier, most: int, streams: SimpleQueue[torch.cuda.Stream]
    ) -> None:
        self._plain, self._stream, self._lock = plain, streams.get_nowait(), Lock()
        replays: dict[int, Run] = {}
        finalize(self, _give_back, replays, self._stream, streams).atexit = False
        device, side = classifier.device, classifier.card.preprocessing.crop
        with torch.inference_mode(), torch.cuda.device(device), torch.cuda.stream(self._stream):
            torch.cuda.empty_cache()
            before = torch.cuda.memory_reserved()
            self._pixels = torch.empty(most, 3, side, side, dtype=torch.uint8, device=device)
            self._captured = Captured(
                partial(score, classifier),
                self._pixels,
                recorder=lambda: RecorderOnGpu(self._stream),
                taken=lambda: torch.cuda.memory_reserved() - before,
                replays=replays,
            )
            self._copies = torch.cuda.Stream(device)
            self._lanes: SimpleQueue[_Lane] = SimpleQueue()
            for _ in range(LANES):
                self._lanes.put(_Lane(self._pixels, self._captured(self._pixels)))
            self._stream.synchronize()
            torch.cuda.empty_cache()
            self.graph_bytes = max(0, torch.cuda.memory_reserved() - before)

    @property
    def sizes(self) -> list[int]:
        """Sizes of batches that have a graph."""
        return self._captured.sizes

    @property
    def size_bytes(self) -> int:
        """Weights, and what graphs and copies take."""
        return self._plain.size_bytes + self.graph_bytes

    @torch.inference_mode()
    def __call__(self, images: Sequence[Tensor], top_k: int) -> Classified:
        """Classify images; see `Runner`."""
        if not self._fit(images):
            return self._plain(images, top_k)
        lane = self._lanes.get()
        try:
            self._start(lane, images)
            lane.done.synchronize()  # without Python's lock, nor a core
            logits, probabilities, indices = (each[: len(images)] for each in lane.scores)
            return logits.clone(), pairs(indices, probabilities, top_k) if top_k <= RANKED else rank(logits, top_k)
        finally:
            self._lanes.put(lane)

    def _fit(self, images: Sequence[Tensor]) -> bool:
        shape = self._pixels.shape[1:]
        few = len(images) <= len(self._pixels)
        return few and all(image.dtype == torch.uint8 and image.shape == shape for image in images)

    def _start(self, lane: "_Lane", images: Sequence[Tensor]) -> None:
        count = len(images)
        torch.stack(list(images), out=lane.host[:count])
        with torch.cuda.stream(self._copies):
            lane.pixels[:count].copy_(lane.host[:count], non_blocking=True)
            lane.copied.record()
        with self._lock, torch.cuda.stream(self._stream):
            lane.copied.wait()  # the stream does, not this thread
            for own, each in zip(lane.scores, self._captured(lane.pixels[:count]), strict=True):
                own[:count].copy_(each[:count], non_blocking=True)
            lane.done.record()


class _Lane:
    """Where a batch is from its copy to the GPU to the copy of its scores back: pinned memory, pixels there, and events."""

    def __init__(self, pixels: Tensor, scores: Scores) -> None:
        self.host = torch.empty(pixels.shape, dtype=pixels.dtype, pin_memory=True)
        self.pixels = torch.empty_like(pixels)
        self.scores = Scores(*(torch.empty(each.shape, dtype=each.dtype, pin_memory=True) for each in scores))
        self.copied, self.done = torch.cuda.Event(), torch.cuda.Event(blocking=True)


def _give_back(replays: dict[int, Run], stream: torch.cuda.Stream, streams: SimpleQueue[torch.cuda.Stream]) -> None:
    """End the graphs, then let another model have their stream."""
    replays.clear()
    streams.put(stream)
