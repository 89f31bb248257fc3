"""What a prediction says: the most probable classes of each picture, or what was wrong with it."""

from collections.abc import Iterable, Sequence

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


Ranked = Sequence[tuple[int, float]]
"""Index and probability of the most probable classes, the most probable first."""


def rank(logits: Tensor, k: int) -> list[Ranked]:
    """Find the k most probable classes of each row of logits (N, K); fewer if there are fewer."""
    if not k:
        return [()] * len(logits)
    probabilities, indices = logits.softmax(1).topk(min(k, logits.shape[1]))
    return pairs(indices, probabilities, k)


def pairs(indices: Tensor, probabilities: Tensor, k: int) -> list[Ranked]:
    """Pair the first k indices and probabilities of each row of ranked classes (N, any)."""
    rows: Iterable[tuple[list[int], list[float]]] = zip(
        indices[:, :k].tolist(), probabilities[:, :k].tolist(), strict=True
    )
    return [list(zip(*row, strict=True)) for row in rows]


def name_classes(ranked: Ranked, classes: Sequence[str]) -> list[ClassScore]:
    """Name ranked classes."""
    return [ClassScore(label=classes[index], index=index, probability=probability) for index, probability in ranked]


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
