"""Run one shard: the images of a range through a condition and a model, one row an image."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import TypeVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

import models
from evaluation.checks import Check, extreme, preflight, probe
from evaluation.conditions import Batch, Outcome, Row, run_condition
from evaluation.datasets import ImageFolder
from evaluation.examples import Example, make_examples
from evaluation.plan import Shard, label_map
from evaluation.spec import AdversarialCondition, Attacking, EvaluationSpec

BATCH_PIXELS = 2**20
"""Height times width times images of one batch: 20 images at 224 x 224."""

PREFLIGHT_IMAGES = 64
"""Images on which a model is looked at before it is attacked."""

EXAMPLES = 4
"""Pictures of fallen images that are kept for a model and condition."""

_FROZEN = ConfigDict(frozen=True, extra="forbid")

T = TypeVar("T")


class ShardResult(BaseModel):
    """A finished shard; `preflight` comes with a model's first condition, `checks` and `examples` with the first images."""

    model_config = _FROZEN

    shard: Shard
    rows: tuple[Row, ...]
    images_forwarded: int
    seconds: float
    preflight: tuple[Check, ...] = ()
    checks: tuple[Check, ...] = ()
    examples: tuple[Example, ...] = ()
    made_with: str = ""


def best_device() -> str:
    """Name the device to use when none is asked for."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def batch_size(side: int) -> int:
    """How many square images of a side, in pixels, make a batch."""
    return max(1, BATCH_PIXELS // side**2)


def run_shard(
    spec: EvaluationSpec,
    shard: Shard,
    *,
    classifier: models.Classifier,
    dataset: ImageFolder,
    searched: nn.Module | None = None,
    explained: models.Classifier | None = None,
    known: ShardResult | None = None,
) -> ShardResult:
    """Run a shard on the device that holds the classifier. A batch that does not fit into its memory is halved.

    Args:
        spec: the whole evaluation.
        shard: which part of it.
        classifier: the shard's model, whose verdict counts.
        dataset: the evaluation's images.
        searched: what attacks see instead of it; see `models.fold`.
        explained: shows its attention in examples; None where it has none.
        known: what came of the first of these images before; they are not run again, if versions and hardware are the same. The
            result is that of a run from nothing; where that cuts its batches elsewhere, confidences may differ in their last bits.

    Raises:
        DatasetError: an image cannot be decoded.
        AttackError: an attack cannot be run as asked.
        PreflightError: the model cannot be evaluated as it is.
    """
    started = time.perf_counter()
    made_with = _made_with(classifier.device)
    known = known if known is not None and known.made_with == made_with else None
    rows = [*known.rows] if known else []
    examples = [*known.examples] if known else []
    forwarded = known.images_forwarded if known else 0
    preflights: tuple[Check, ...] = ()
    checks: tuple[Check, ...] = ()
    indices = dataset.select(spec.images, spec.seed)[shard.start : shard.stop]
    to_logit = torch.tensor(label_map(classifier.card.classes, dataset, shard.model))

    def load(start: int, count: int) -> Batch:
        some = indices[start : start + count]
        images = torch.stack([classifier.card.preprocessing(dataset.picture(index)) for index in some])
        labels = to_logit[[dataset.labels[index] for index in some]].to(classifier.device)
        return Batch(classifier, searched or classifier, images.to(classifier.device), labels, some, spec.seed)

    def run(start: int, count: int) -> tuple[Batch, Outcome]:
        batch = load(start, count)
        return batch, run_condition(spec.conditions[shard.condition], batch)

    size = min(batch_size(classifier.card.preprocessing.crop), len(indices))
    if shard.start == 0 and shard.condition == 0:
        preflights, size = _fitting(size, lambda count: _preflight(load(0, count)))
    while len(rows) < len(indices):
        (batch, outcome), size = _fitting(size, partial(run, len(rows)))
        rows += outcome.rows(batch)
        forwarded += outcome.images_forwarded
        if shard.start == 0:
            examples += make_examples(batch, outcome, explained, EXAMPLES - len(examples))
    if shard.start == 0:
        checks, size = _fitting(size, lambda count: _probe(spec, shard, load(0, count), rows[:count]))
    return ShardResult(
        shard=shard,
        rows=tuple(rows),
        images_forwarded=forwarded,
        seconds=time.perf_counter() - started + (known.seconds if known else 0),
        preflight=preflights,
        checks=checks,
        examples=tuple(examples),
        made_with=made_with,
    )


def _fitting(count: int, work: Callable[[int], T]) -> tuple[T, int]:
    """Do work on a batch of `count` images, halved until it fits into memory; returns what came of it and the count that fits."""
    while True:
        try:
            return work(count), count
        except torch.OutOfMemoryError:
            if count == 1:
                raise
            count //= 2


def _made_with(device: torch.device) -> str:
    """Versions and hardware that an exact repetition needs."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return f"withstand {version('withstand')}, torch {torch.__version__}, {device.type} {where}"


def _preflight(batch: Batch) -> tuple[Check, ...]:
    few = slice(PREFLIGHT_IMAGES)
    return preflight(batch.classifier, batch.images[few], batch.labels[few], batch.indices[few])


def _probe(spec: EvaluationSpec, shard: Shard, batch: Batch, rows: Sequence[Row]) -> tuple[Check, ...]:
    """Check an attack on its first batch; the extreme radius once a model, with the first condition that attacks."""
    condition = spec.conditions[shard.condition]
    if not isinstance(condition, Attacking) or getattr(condition, "targets", None):
        return ()
    threat = condition.threat if isinstance(condition, AdversarialCondition) else condition.threats[-1]
    model, images, labels = batch.classifier, batch.images, batch.labels
    standing = torch.tensor([row.counts(condition) for row in rows], device=labels.device)
    few = slice(PREFLIGHT_IMAGES)
    return (
        *probe(model, images, labels, batch.indices, threat, standing),
        *(
            [extreme(model, images[few], labels[few], batch.indices[few])]
            if shard.condition == spec.attacking[0]
            else []
        ),
    )
