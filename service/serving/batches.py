"""One batch through a model."""

from collections.abc import Sequence

import torch
from torch import Tensor

import models
from service.serving.predictions import Ranked, rank


@torch.inference_mode()
def classify(
    classifier: models.Classifier, images: Sequence[Tensor], device: str, top_k: int
) -> tuple[Tensor, list[Ranked]]:
    """Classify images (3, H, W): 8-bit pixels, or float32 in [0, 1].

    Returns:
        Logits (N, K) in float32 on the CPU, and the `top_k` most probable classes of each image.
    """
    logits = classifier(_stack(images, device)).float()
    return logits.cpu(), rank(logits, top_k)


def _stack(images: Sequence[Tensor], device: str) -> Tensor:
    """Make a batch (N, 3, H, W) in [0, 1] on a device; 8-bit pixels are scaled there."""
    if len({image.dtype for image in images}) > 1:
        images = [models.scaled(image) if image.dtype == torch.uint8 else image for image in images]
    batch = torch.stack(list(images))
    if not device.startswith("cpu"):
        batch = batch.pin_memory()  # else the copy would wait for another copy, on the host
    batch = batch.to(device, non_blocking=True)
    return models.scaled(batch) if batch.dtype == torch.uint8 else batch
