"""Run one shard: the images of a range through a condition and a model, one row an image."""

import time
from collections.abc import Sequence
from importlib.metadata import version

import torch
from pydantic import BaseModel, ConfigDict

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
    searched: models.Classifier | None = None,
    explained: models.Classifier | None = None,
) -> ShardResult:
    """Run a shard on the device that holds the classifier. A batch that does not fit into its memory is halved.

    Args:
        spec: the whole evaluation.
        shard: which part of it.
        classifier: the shard's model, whose verdict counts.
        dataset: the evaluation's images.
        searched: what attacks see instead of it; see `models.fold`.
        explained: shows its attention in examples; None where it has none.

    Raises:
        DatasetError: an image cannot be decoded.
        AttackError: an attack cannot be run as asked.
        PreflightError: the model cannot be evaluated as it is.
    """
    started = time.perf_counter()
    condition = spec.conditions[shard.condition]
    to_logit = torch.tensor(label_map(classifier.card.classes, dataset, shard.model))
    rows: list[Row] = []
    checks: list[Check] = []
    examples: list[Example] = []
    found: tuple[Check, ...] = ()
    forwarded = 0
    queue: Sequence[int] = dataset.select(spec.images, spec.seed)[shard.start : shard.stop]
    size = batch_size(classifier.card.preprocessing.crop)
    while queue:
        indices = queue[:size]
        images = torch.stack([classifier.card.preprocessing(dataset.picture(index)) for index in indices])
        labels = to_logit[[dataset.labels[index] for index in indices]].to(classifier.device)
        batch = Batch(classifier, searched or classifier, images.to(classifier.device), labels, indices, spec.seed)
        try:
            first = shard.start == 0 and not rows
            found = _preflight(batch) if first and shard.condition == 0 else found
            outcome = run_condition(condition, batch)
            checks += _probe(spec, shard, batch, outcome) if first else ()
        except torch.OutOfMemoryError:
            if len(indices) == 1:
                raise
            size = len(indices) // 2
            continue
        queue = queue[size:]
        rows += outcome.rows(batch)
        forwarded += outcome.images_forwarded
        if shard.start == 0:
            examples += make_examples(batch, outcome, explained, EXAMPLES - len(examples))
    seconds = time.perf_counter() - started
    return ShardResult(
        shard=shard,
        rows=tuple(rows),
        images_forwarded=forwarded,
        seconds=seconds,
        preflight=found,
        checks=tuple(checks),
        examples=tuple(examples),
        made_with=_made_with(classifier.device),
    )


def _made_with(device: torch.device) -> str:
    """Versions and hardware that an exact repetition needs."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return f"withstand {version('withstand')}, torch {torch.__version__}, {device.type} {where}"


def _preflight(batch: Batch) -> tuple[Check, ...]:
    few = slice(PREFLIGHT_IMAGES)
    return preflight(batch.classifier, batch.images[few], batch.labels[few], batch.indices[few])


def _probe(spec: EvaluationSpec, shard: Shard, batch: Batch, outcome: Outcome) -> tuple[Check, ...]:
    """Check an attack on its first batch; the extreme radius once a model, with the first condition that attacks."""
    condition = spec.conditions[shard.condition]
    if not isinstance(condition, Attacking) or getattr(condition, "targets", None):
        return ()
    threat = condition.threat if isinstance(condition, AdversarialCondition) else condition.threats[-1]
    model, images, labels = batch.classifier, batch.images, batch.labels
    few = slice(PREFLIGHT_IMAGES)
    return (
        *probe(model, images, labels, batch.indices, threat, outcome.right(batch) & ~outcome.fallen(batch)),
        *(
            [extreme(model, images[few], labels[few], batch.indices[few])]
            if shard.condition == spec.attacking[0]
            else []
        ),
    )
