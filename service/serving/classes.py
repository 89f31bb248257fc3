"""The most probable classes of a picture."""

from collections.abc import Sequence

from pydantic import BaseModel
from torch import Tensor


class ClassScore(BaseModel):
    """One class with its softmax probability."""

    label: str
    index: int
    probability: float


def top_classes(logits: Tensor, classes: Sequence[str], k: int) -> list[ClassScore]:
    """Name the k most probable classes of one picture's logits (K,), the most probable first; fewer if there are fewer."""
    probabilities, indices = logits.softmax(0).topk(min(k, len(classes)))
    chosen: list[int] = indices.tolist()
    return [
        ClassScore(label=classes[index], index=index, probability=probability)
        for probability, index in zip(probabilities.tolist(), chosen, strict=True)
    ]
