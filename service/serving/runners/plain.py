"""One batch through a model."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

import models
from service.serving.predictions import Ranked, rank

Classified = tuple[Tensor, Sequence[Ranked]]
"""Logits (N, K) in float32 on the CPU, and the most probable classes of each image."""


class Runner(Protocol):
    """A loaded model as its device runs it; may be called by several threads at once."""

    @property
    def size_bytes(self) -> int:
        """What it takes of the device's memory."""
        ...

    def __call__(self, images: Sequence[Tensor], top_k: int) -> Classified:
        """Classify images (3, H, W): 8-bit pixels, or float32 in [0, 1]; names the `top_k` most probable classes of each."""
        ...


class Plain:
    """Runs a model as it is, on any device.

    Args:
        classifier: on the device.
    """

    def __init__(self, classifier: models.Classifier) -> None:
        self.classifier = classifier

    @property
    def size_bytes(self) -> int:
        """Weights and buffers."""
        return sum(each.nbytes for each in (*self.classifier.parameters(), *self.classifier.buffers()))

    @torch.inference_mode()
    def __call__(self, images: Sequence[Tensor], top_k: int) -> Classified:
        """Classify images; see `Runner`."""
        logits = self.classifier(_stack(images, self.classifier.device)).float()
        return logits.cpu(), rank(logits, top_k)


def _stack(images: Sequence[Tensor], device: torch.device) -> Tensor:
    """Make a batch (N, 3, H, W) in [0, 1] on a device; 8-bit pixels are scaled there."""
    if len({image.dtype for image in images}) > 1:
        images = [models.scaled(image) if image.dtype == torch.uint8 else image for image in images]
    batch = torch.stack(list(images))
    if device.type != "cpu":
        batch = batch.pin_memory()  # else the copy would wait for another copy, on the host
    batch = batch.to(device, non_blocking=True)
    return models.scaled(batch) if batch.dtype == torch.uint8 else batch
