"""Pictures of images that were flipped, for looking at."""

import base64
import io

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import models
from attacks import predictions
from common.validation import Frozen
from evaluation.compute.conditions import Batch, Outcome

PICTURE_SIDE = 112
"""Longest side of a stored picture, pixels."""

AttentionGrid = tuple[tuple[float, ...], ...]
"""What a model's last attention layer weighs, mean over its maps, the largest cell 1: H rows of W cells."""


class Example(Frozen):
    """An image that was right and is wrong under the condition; pictures are base64 of PNG files.

    Attributes:
        index: of the image in its data set.
        label: name of the right class.
        prediction: name of the class under the condition.
        clean_confidence: largest softmax value on the image as it is.
        confidence: largest softmax value under the condition.
        clean: the image as the model sees it.
        changed: the same under the condition.
        difference: changed minus clean, divided by `scale` around middle grey.
        scale: largest change of a value.
        clean_attention: what the model's attention weighs in the image as it is; None where it has none.
        attention: the same under the condition.
    """

    index: int
    label: str
    prediction: str
    clean_confidence: float
    confidence: float
    clean: str
    changed: str
    difference: str
    scale: float
    clean_attention: AttentionGrid | None = None
    attention: AttentionGrid | None = None


def make_examples(batch: Batch, outcome: Outcome, explained: models.Classifier | None, count: int) -> list[Example]:
    """Draw the first `count` images that were right and are wrong, but for those whose row a longer cascade would not keep.

    Args:
        batch: the images.
        outcome: what the condition did to them.
        explained: shows its attention; None where the model has none.
        count: none if below 1.
    """
    predicted = predictions(outcome.logits)
    wrong = outcome.right(batch) & (predicted != batch.labels) & (predicted >= 0)
    decisive = torch.tensor([fall is None or not fall.repeated for fall in outcome.falls], device=wrong.device)
    drawable = wrong & decisive & outcome.images.flatten(1).isfinite().all(1)
    return [_example(batch, outcome, explained, at) for at in drawable.nonzero().flatten().tolist()[: max(0, count)]]


def _example(batch: Batch, outcome: Outcome, explained: models.Classifier | None, at: int) -> Example:
    clean, changed = batch.images[at], outcome.images[at]
    difference = changed - clean
    scale = max(difference.abs().max().item(), 1e-9)

    def name(column: Tensor) -> str:
        return batch.classifier.card.classes[batch.logit(int(column)) or 0]

    before, after = (None, None) if explained is None else _attention(explained, torch.stack([clean, changed]))
    return Example(
        index=batch.indices[at],
        label=name(batch.labels[at]),
        prediction=name(outcome.logits[at].argmax()),
        clean_confidence=outcome.clean_logits[at].softmax(0).amax().item(),
        confidence=outcome.logits[at].softmax(0).amax().item(),
        clean=_png(clean),
        changed=_png(changed),
        difference=_png(0.5 + difference / (2 * scale)),
        scale=scale,
        clean_attention=before,
        attention=after,
    )


def _attention(explained: models.Classifier, images: Tensor) -> list[AttentionGrid]:
    layer = models.attention_layers(explained)[-1]
    (found,) = models.attention_maps(explained, images, layer=layer)
    mean = (found.maps * found.scale[..., None, None]).mean(1)
    scaled = (mean / mean.amax((1, 2), keepdim=True).clamp(min=1e-9)).nan_to_num()
    return [tuple(tuple(round(cell, 3) for cell in row) for row in grid) for grid in scaled.tolist()]


def _png(image: Tensor) -> str:
    if (side := max(image.shape[-2:])) > PICTURE_SIDE:
        image = F.interpolate(image[None], scale_factor=PICTURE_SIDE / side, mode="area")[0]
    values = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    written = io.BytesIO()
    Image.fromarray(values).save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode()
