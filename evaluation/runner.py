"""Run one shard: images through a condition and a model, one row an image."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

import attacks
import models
from evaluation.datasets import ImageFolder
from evaluation.plan import Shard, label_map
from evaluation.spec import AdversarialCondition, CleanCondition, EvaluationSpec, TransformCondition

BATCH_PIXELS = 2**20
"""Height times width times images of one batch: 20 images at 224 x 224."""

TARGET_STREAM = 1
"""Stream of random draws for targets; stream 0 belongs to the attack or transform."""

_FROZEN = ConfigDict(frozen=True, extra="forbid")


class Row(BaseModel):
    """What happened to one image.

    Attributes:
        index: of the image in its data set.
        label: index of the right logit.
        clean_prediction: on the image as it is.
        clean_confidence: largest softmax value on the image as it is; None if not finite.
        prediction: under the condition.
        confidence: largest softmax value under the condition; None if not finite.
        rank: number of classes with a larger logit than the label's, under the condition.
        distance: from the clean image in the threat's norm; None without a threat, or if not finite.
        within_budget: False where an attack left the ball or [0, 1], or returned NaN.
        reached: predicted as the target, within budget; None without targets.
        felled_by: the attack that flipped it; None if it was wrong already or still stands.
    """

    model_config = _FROZEN

    index: int
    label: int
    clean_prediction: int
    clean_confidence: float | None
    prediction: int
    confidence: float | None
    rank: int
    distance: float | None = None
    within_budget: bool = True
    reached: bool | None = None
    felled_by: str | None = None


class ShardResult(BaseModel):
    """A finished shard."""

    model_config = _FROZEN

    shard: Shard
    rows: tuple[Row, ...]
    images_forwarded: int
    seconds: float


def best_device() -> str:
    """Name the device to use when none is asked for."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def run_shard(
    spec: EvaluationSpec,
    shard: Shard,
    *,
    classifier: models.Classifier,
    dataset: ImageFolder,
) -> ShardResult:
    """Run a shard on the device that holds the classifier.

    Args:
        spec: the whole evaluation.
        shard: which part of it.
        classifier: the shard's model.
        dataset: the evaluation's images.

    Raises:
        DatasetError: an image cannot be decoded.
        AttackError: an attack cannot be run as asked.
    """
    started = time.perf_counter()
    condition = spec.conditions[shard.condition]
    device = classifier.device
    to_logit = torch.tensor(label_map(classifier.card.classes, dataset, shard.model))
    rows: list[Row] = []
    forwarded = 0
    for indices in _batches(dataset.select(spec.images, spec.seed)[shard.start : shard.stop], classifier):
        images = torch.stack([classifier.card.preprocessing(dataset.picture(index)) for index in indices]).to(device)
        labels = to_logit[[dataset.labels[index] for index in indices]].to(device)
        batch = _Batch(classifier, images, labels, indices, spec.seed)
        outcome = _attack(condition, batch) if isinstance(condition, AdversarialCondition) else _look(condition, batch)
        rows += outcome.rows(batch)
        forwarded += outcome.images_forwarded
    seconds = time.perf_counter() - started
    return ShardResult(shard=shard, rows=tuple(rows), images_forwarded=forwarded, seconds=seconds)


def _batches(indices: Sequence[int], classifier: models.Classifier) -> Iterator[Sequence[int]]:
    size = max(1, BATCH_PIXELS // classifier.card.preprocessing.crop**2)
    return (indices[start : start + size] for start in range(0, len(indices), size))


@dataclass(frozen=True)
class _Batch:
    """N images with what is needed to run them: images (N, C, H, W), labels (N,) that index logits."""

    classifier: models.Classifier
    images: Tensor
    labels: Tensor
    indices: Sequence[int]
    seed: int


@dataclass
class _Outcome:
    """What a condition did to a batch of N images; the tensors' meaning is that of `Row`'s fields."""

    clean_logits: Tensor
    logits: Tensor
    images_forwarded: int
    distances: Tensor | None = None
    within_budget: Tensor | None = None
    reached: Tensor | None = None
    felled_by: list[str | None] = field(default_factory=list[str | None])

    def add(self, run: attacks.AttackRun, standing: Tensor, attack: str) -> None:
        """Take in what one more attack did to the images that the mask `standing` (N,) chooses."""
        self.logits[standing] = run.logits
        self.images_forwarded += run.images_forwarded
        self.distances = _merged(self.distances, run.distances, standing)
        self.within_budget = _merged(self.within_budget, run.within_budget, standing)
        self.reached = None if run.reached is None else _merged(self.reached, run.reached, standing)
        for position, flipped in zip(standing.nonzero().flatten().tolist(), run.flipped.tolist(), strict=True):
            if flipped:
                self.felled_by[position] = attack

    def rows(self, batch: _Batch) -> list[Row]:
        of_label = self.logits.gather(1, batch.labels.unsqueeze(1))
        columns: dict[str, Sequence[object]] = {
            "index": batch.indices,
            "label": batch.labels.tolist(),
            "clean_prediction": self.clean_logits.argmax(1).tolist(),
            "clean_confidence": _finite(self.clean_logits.softmax(1).amax(1)),
            "prediction": self.logits.argmax(1).tolist(),
            "confidence": _finite(self.logits.softmax(1).amax(1)),
            "rank": (~(self.logits <= of_label)).sum(1).tolist(),  # a NaN counts as larger
        }
        if self.distances is not None and self.within_budget is not None:
            columns["distance"] = _finite(self.distances)
            columns["within_budget"] = self.within_budget.tolist()
            columns["felled_by"] = self.felled_by
        if self.reached is not None:
            columns["reached"] = self.reached.tolist()
        values = zip(*columns.values(), strict=True)
        return [Row.model_validate(dict(zip(columns, row, strict=True))) for row in values]


def _finite(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _merged(before: Tensor | None, values: Tensor, mask: Tensor) -> Tensor:
    merged = values.new_zeros(len(mask)) if before is None else before.clone()
    merged[mask] = values
    return merged


def _look(condition: CleanCondition | TransformCondition, batch: _Batch) -> _Outcome:
    with torch.no_grad():
        clean_logits = batch.classifier(batch.images)
        if isinstance(condition, CleanCondition):
            return _Outcome(clean_logits, clean_logits, len(batch.images))
        changed = condition.create().apply(batch.images, attacks.image_generators(batch.seed, batch.indices))
        return _Outcome(clean_logits, batch.classifier(changed), 2 * len(batch.images))


def _attack(condition: AdversarialCondition, batch: _Batch) -> _Outcome:
    """Run the attacks one after the other, each on the images that are still right; the first meets all images."""
    with torch.no_grad():
        clean_logits = batch.classifier(batch.images)
    targets = None
    if condition.targets:
        generators = attacks.image_generators(batch.seed, batch.indices, stream=TARGET_STREAM)
        targets = attacks.choose_targets(condition.targets, clean_logits, batch.labels, generators)
    total = _Outcome(clean_logits, clean_logits.clone(), len(batch.images), felled_by=[None] * len(batch.images))
    standing = torch.ones_like(batch.labels, dtype=torch.bool)
    for choice in condition.attacks:
        indices = [index for index, on in zip(batch.indices, standing.tolist(), strict=True) if on]
        run = attacks.run_attack(
            choice.create(),
            batch.classifier,
            batch.images[standing],
            batch.labels[standing],
            threat=condition.threat,
            generator=attacks.image_generators(batch.seed, indices),
            targets=None if targets is None else targets[standing],
        )
        total.add(run, standing, choice.name)
        unfelled = torch.tensor([name is None for name in total.felled_by], device=batch.labels.device)
        standing = (clean_logits.argmax(1) == batch.labels) & unfelled
        if not standing.any():
            break
    return total
