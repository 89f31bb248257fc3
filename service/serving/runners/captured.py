"""Models captured for predictions: a graph for each of a few batch sizes, from 8-bit pixels to the most probable classes."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

import models
from common.cuda_graphs import cause_of

RANKED = 10
"""Classes that a graph ranks; for more, the host ranks the logits."""

MOST_BYTES = 2 * 2**30
"""Memory that the graphs of one model may take. Batches of sizes for which this is not enough run without a graph."""

TOLERANCE = 0.01
"""Largest difference between the logits of a replay and an ordinary pass, over the largest logit: a broken replay differs by far
more."""


class Scores(NamedTuple):
    """What a graph computes for N images: logits (N, K), and the probabilities and indices (N, k) of the most probable classes."""

    logits: Tensor
    probabilities: Tensor
    indices: Tensor


Run = Callable[[], Scores]
Recorder = Callable[[Run], Run]
"""Turns a computation on fixed tensors into one that replays it."""


def score(classifier: models.Classifier, pixels: Tensor) -> Scores:
    """Classify 8-bit pixels (N, 3, H, W), and rank the classes."""
    logits = classifier(models.scaled(pixels)).float()
    return Scores(logits, *logits.softmax(1).topk(min(RANKED, logits.shape[1])))


def sizes(most: int) -> list[int]:
    """The batch sizes that are captured: powers of two, and the largest batch."""
    return [*(2**power for power in range((most - 1).bit_length())), most]


def padded(count: int, most: int) -> int:
    """The size, one of `sizes`, to which a batch is padded."""
    return min(1 << (count - 1).bit_length(), most)


class Captured:
    """Scores of batches of up to a largest size, captured for each of `sizes`; a batch is padded with older images.

    Args:
        run: scores 8-bit pixels (N, 3, H, W).
        pixels: what graphs read, with room for the largest batch.
        recorder: makes what captures computations, all into one memory.
        taken: counts the bytes that graphs have taken.
        replays: takes the graphs, by size.

    Raises:
        RuntimeError: it cannot be captured, or a replay differs from an ordinary pass; nothing is captured then.
    """

    def __init__(
        self,
        run: Callable[[Tensor], Scores],
        pixels: Tensor,
        *,
        recorder: Callable[[], Recorder],
        taken: Callable[[], int],
        replays: dict[int, Run],
    ) -> None:
        self._run, self._pixels, self._replays = run, pixels, replays
        try:
            self._capture(recorder, taken)
        except RuntimeError as error:  # anything PyTorch raises for a capture
            replays.clear()
            cause = cause_of(error)
            raise RuntimeError(f"{type(cause).__name__}: {cause}") from error

    @property
    def sizes(self) -> list[int]:
        """Sizes of batches that are captured."""
        return sorted(self._replays)

    def __call__(self, pixels: Tensor) -> Scores:
        """Score 8-bit pixels (N, 3, H, W) in the first N rows of the result, which the next call overwrites."""
        size = padded(len(pixels), len(self._pixels))
        if size not in self._replays:
            return self._run(pixels)
        self._pixels[: len(pixels)].copy_(pixels)
        return self._replays[size]()

    def _capture(self, recorder: Callable[[], Recorder], taken: Callable[[], int]) -> None:
        """Capture the largest size first, in whose memory the others find room; sizes that do not fit are left out."""
        record = recorder()
        for size in reversed(sizes(len(self._pixels))):
            pixels = self._pixels[:size].zero_()
            try:
                replay = record(partial(self._run, pixels))
            except RuntimeError as error:
                if self._replays or not isinstance(cause_of(error), torch.OutOfMemoryError):
                    raise  # graphs of a stream share workspaces, which the end of one frees (pytorch issue 193402)
                record = recorder()
                continue
            if not self._replays and taken() > MOST_BYTES:
                del replay
                record = recorder()
                continue
            self._require_alike(replay, pixels)
            self._replays[size] = replay
        if not self._replays:
            raise RuntimeError(f"a single image takes more than {MOST_BYTES / 2**20:.0f} MiB, or than there is")

    def _require_alike(self, replay: Run, pixels: Tensor) -> None:
        """Compare a replay with an ordinary pass, on other images than were captured."""
        pixels.copy_(torch.randint(256, pixels.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
        expected, found = self._run(pixels).logits, replay().logits
        if not (found - expected).abs().max() <= TOLERANCE * expected.abs().max():
            raise RuntimeError(f"a replay of {len(pixels)} images differs from an ordinary pass")
