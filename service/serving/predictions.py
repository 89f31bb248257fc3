"""What a prediction says: the most probable classes of each picture, or what was wrong with it."""

from collections.abc import Sequence

from pydantic import BaseModel
from torch import Tensor


class FieldError(BaseModel):
    """What is wrong with one field of a request."""

    field: str
    message: str
    received: str | None = None

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


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


class Prediction(BaseModel):
    """The most probable classes of one picture, or what was wrong with it."""

    file: str
    top: list[ClassScore] = []
    error: FieldError | None = None


class Predictions(BaseModel):
    """The answer to a prediction request, one row per picture, in the order sent."""

    model: str
    version: str
    predictions: list[Prediction]
