"""What a condition does to a batch of images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

import attacks
import models
from attacks import ThreatModel
from common.validation import Frozen
from evaluation.choices import MAX_RESTARTS, Round, repetition, rounds
from evaluation.spec import (
    AdversarialCondition,
    CleanCondition,
    Condition,
    CurveCondition,
    GridCondition,
    TransformCondition,
)

TARGET_STREAM = MAX_RESTARTS
"""Stream of random draws for targets; a transform has stream 0, an attack the one of its restart's number."""


OfRandomised = Annotated[int | None, Field(exclude_if=lambda value: value is None)]
"""A number of passes, which only rows of randomised models have."""


class Row(Frozen):
    """What happened to one image.

    Attributes:
        index: of the image in its data set.
        label: index of the right logit.
        clean_prediction: on the image as it is; None, and wrong, if a logit is not finite.
        clean_confidence: largest softmax value on the image as it is; None if not finite.
        prediction: under the condition; None, and wrong, if a logit is not finite.
        confidence: largest softmax value under the condition; None if not finite.
        rank: number of classes with a larger logit than the label's, under the condition.
        distance: from the clean image in the threat's norm; None without a threat, or if not finite.
        within_budget: False where an attack left the ball or [0, 1], or returned NaN.
        reached: predicted as the target, within budget; None without targets.
        flipped_by: the attack that flipped it; None if it was wrong already or still stands.
        flipped_restart: in which of that attack's restarts, 0 the first run; None as flipped_by.
        flipped_step: after how many steps of that run, 0 at its start; None if the attack does not say, or as flipped_by.
        flipped_eps: smallest radius of a curve at which it was flipped; None where there is no curve, or as flipped_by.
        flipped_in_float32: it stood, or did not reach its target, until what was searched in lower precision was repeated.
        passes: by which it was judged, if the model is randomised; its predictions, confidences and rank are then those of the
            mean softmax over them. Else None, and absent from JSON like the two that follow.
        clean_correct: how many passes are right on the image as it is.
        correct: how many other passes are right under the condition.
    """

    index: int
    label: int
    clean_prediction: int | None
    clean_confidence: float | None
    prediction: int | None
    confidence: float | None
    rank: int
    distance: float | None = None
    within_budget: bool = True
    reached: bool | None = None
    flipped_by: str | None = None
    flipped_restart: int | None = None
    flipped_step: int | None = None
    flipped_eps: float | None = None
    flipped_in_float32: bool = False
    passes: OfRandomised = None
    clean_correct: OfRandomised = None
    correct: OfRandomised = None

    @property
    def clean_right(self) -> bool:
        """Whether it is right as it is; if the model is randomised, in most passes."""
        if self.passes is None or self.clean_correct is None:
            return self.clean_prediction == self.label
        return 2 * self.clean_correct > self.passes

    @property
    def right(self) -> bool:
        """Whether it is right under the condition; if the model is randomised, in most passes."""
        if self.passes is None or self.correct is None:
            return self.prediction == self.label
        return 2 * self.correct > self.passes

    def counts(self, condition: Condition) -> bool:
        """Whether it counts for the score: right under the condition; where something attacks, right before and not flipped.

        If the model is randomised, it counts if most passes are right under the condition.
        """
        if isinstance(condition, CurveCondition) or (
            isinstance(condition, AdversarialCondition) and self.passes is None
        ):
            return self.clean_right and self.flipped_by is None
        return self.right

    def open(self, condition: AdversarialCondition) -> bool:
        """Whether a further round would attack it."""
        return self.counts(condition) if condition.targets is None else not self.reached

    def followed_by(self, later: "Row") -> "Row":
        """Join what the first rounds of a cascade did with what the later ones did."""
        within = self.within_budget and later.within_budget
        last = self if self.flipped_by and not later.reached else later
        return last.model_copy(update={"within_budget": within})


@dataclass(frozen=True)
class Batch:
    """N images with what is needed to run them: images (N, C, H, W), labels (N,) that index the logits that are looked at."""

    classifier: models.Classifier
    searched: nn.Module
    images: Tensor
    labels: Tensor
    indices: Sequence[int]
    seed: int
    columns: Sequence[int] | None = None
    has_gradient: bool = True
    precision: models.Precision = "float32"

    def runnable(self, chosen: Sequence[Round]) -> list[Round]:
        """The rounds that the model can be attacked with: where it has no gradient, those that need none."""
        return [run for run in chosen if self.has_gradient or not run.choice.create().uses_gradient]

    def logit(self, column: int) -> int | None:
        """Index among the model's logits of a column of those that are looked at; None for -1, see `attacks.predictions`."""
        if column < 0:
            return None
        return column if self.columns is None else self.columns[column]

    @cached_property
    def draws(self) -> attacks.Draws:
        """The source of all randomness: a stream for each restart of an attack, 0 for a transform, `TARGET_STREAM` for targets."""
        return attacks.Draws.of(self.seed, self.indices, device=self.images.device)


@dataclass(frozen=True)
class Fall:
    """The end of an image; see `Row.flipped_by` and its neighbours."""

    by: str
    restart: int
    step: int | None
    repeated: bool = False


@dataclass
class Outcome:
    """What a condition did to a batch of N images; the tensors' meaning is that of `Row`'s fields."""

    clean_logits: Tensor
    logits: Tensor
    images: Tensor
    images_forwarded: int
    distances: Tensor | None = None
    within_budget: Tensor | None = None
    reached: Tensor | None = None
    flipped_eps: Tensor | None = None
    falls: list[Fall | None] = field(default_factory=list[Fall | None])
    passes: int | None = None
    clean_correct: Sequence[int] = ()
    correct: Sequence[int] = ()

    @classmethod
    def of(cls, batch: Batch) -> "Outcome":
        """Begin with the images as they are."""
        logits = attacks.classify(batch.classifier, batch.images)
        count = len(batch.images)
        return cls(logits, logits.clone(), batch.images.clone(), count, falls=[None] * count)

    def right(self, batch: Batch) -> Tensor:
        """Which images are right as they are, (N,) bool."""
        return attacks.predictions(self.clean_logits) == batch.labels

    def flipped(self, batch: Batch) -> Tensor:
        """Which images an attack has flipped, (N,) bool."""
        return torch.tensor([fall is not None for fall in self.falls], device=batch.labels.device)

    def attack(
        self, batch: Batch, chosen: Tensor, run: Round, threat: ThreatModel, targets: Tensor | None = None
    ) -> Tensor:
        """Attack the images that the mask (N,) chooses and take in what came of it, but not what failed on images flipped before.

        Args:
            batch: the images.
            chosen: (N,) bool, at least one.
            run: which attack, and which restart of it.
            threat: the budget.
            targets: (N,) classes to aim for.

        Returns:
            Which of N were flipped or, with targets, reached theirs.
        """
        found = attacks.run_attack(
            run.choice.create(),
            batch.classifier,
            batch.images[chosen],
            batch.labels[chosen],
            threat=threat,
            draws=batch.draws[chosen].stream(run.restart),
            targets=None if targets is None else targets[chosen],
            searched=batch.classifier if run.repeated else batch.searched,
            searched_as="ieee" if run.repeated else models.float32_in(batch.precision),
            clean_logits=self.clean_logits[chosen],
        )
        return self.take(batch, chosen, found, by=run.choice.name, restart=run.restart, repeated=run.repeated)

    def take(
        self,
        batch: Batch,
        chosen: Tensor,
        found: attacks.AttackRun,
        *,
        by: str,
        restart: int = 0,
        repeated: bool = False,
    ) -> Tensor:
        """Take in what came of attacking the images that the mask (N,) chooses; returns as `attack` does."""
        flipped = _merged(None, found.flipped, chosen)
        reached = None if found.reached is None else _merged(None, found.reached, chosen)
        steps = None if found.steps is None else _merged(None, found.steps, chosen)
        done = flipped if reached is None else reached
        into = chosen & (done | ~self.flipped(batch))
        taken = into[chosen]
        self.logits[into], self.images[into] = found.logits[taken], found.adversarial[taken]
        self.images_forwarded += found.images_forwarded
        self.distances = _merged(self.distances, found.distances[taken], into)
        within = torch.ones_like(chosen) if self.within_budget is None else self.within_budget
        self.within_budget = within & torch.ones_like(chosen).masked_scatter(chosen, found.within_budget)
        if reached is not None:
            self.reached = reached if self.reached is None else self.reached | reached
        for position in (flipped & into).nonzero().flatten().tolist():
            step = None if steps is None else int(steps[position])
            self.falls[position] = Fall(by, restart, step, repeated)
        return done

    def rows(self, batch: Batch) -> list[Row]:
        """Write one row per image."""
        of_label = self.logits.gather(1, batch.labels.unsqueeze(1))
        columns: dict[str, Sequence[object]] = {
            "index": batch.indices,
            "label": [batch.logit(column) for column in batch.labels.tolist()],
            "clean_prediction": [batch.logit(column) for column in attacks.predictions(self.clean_logits).tolist()],
            "clean_confidence": _finite(self.clean_logits.softmax(1).amax(1)),
            "prediction": [batch.logit(column) for column in attacks.predictions(self.logits).tolist()],
            "confidence": _finite(self.logits.softmax(1).amax(1)),
            "rank": (~(self.logits <= of_label)).sum(1).tolist(),  # a NaN counts as larger
        }
        if self.distances is not None and self.within_budget is not None:
            columns["distance"] = _finite(self.distances)
            columns["within_budget"] = self.within_budget.tolist()
            columns["flipped_by"] = [fall and fall.by for fall in self.falls]
            columns["flipped_restart"] = [fall and fall.restart for fall in self.falls]
            columns["flipped_step"] = [fall and fall.step for fall in self.falls]
            columns["flipped_in_float32"] = [fall is not None and fall.repeated for fall in self.falls]
        if self.reached is not None:
            columns["reached"] = self.reached.tolist()
        if self.flipped_eps is not None:
            columns["flipped_eps"] = _finite(self.flipped_eps)
        if self.passes is not None:
            columns["passes"] = [self.passes] * len(batch.images)
            columns["clean_correct"], columns["correct"] = self.clean_correct, self.correct
        values = zip(*columns.values(), strict=True)
        return [Row.model_validate(dict(zip(columns, row, strict=True))) for row in values]


def _finite(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _merged(before: Tensor | None, values: Tensor, mask: Tensor) -> Tensor:
    merged = values.new_zeros(len(mask)) if before is None else before.clone()
    merged[mask] = values
    return merged


def run_condition(condition: Condition, batch: Batch, *, first_round: int = 0) -> Outcome:
    """Run a condition on a batch.

    Args:
        condition: what is done.
        batch: the images; those that are still open where `first_round` is not 0.
        first_round: the round of a cascade to begin with; the ones before have been run.

    Raises:
        AttackError: an attack cannot be run as asked.
    """
    match condition:
        case CleanCondition():
            return Outcome.of(batch)
        case TransformCondition():
            return _transform([condition.create()], batch)
        case GridCondition():
            return _transform(condition.create(), batch)
        case AdversarialCondition():
            return _attack(condition, batch, first_round)
        case CurveCondition():
            return _curve(condition, batch)


def _transform(transforms: Sequence[attacks.Transform], batch: Batch) -> Outcome:
    """Look at the images under one transform after the other; those that are wrong under one are done."""
    total = Outcome.of(batch)
    standing = torch.ones_like(batch.labels, dtype=torch.bool)
    for transform in transforms:
        changed = transform.apply(batch.images[standing], batch.draws[standing].stream(0))
        logits = attacks.classify(batch.classifier, changed)
        total.logits[standing], total.images[standing] = logits, changed
        total.images_forwarded += len(changed)
        standing = standing & (attacks.predictions(total.logits) == batch.labels)
        if not standing.any():
            break
    return total


def _attack(condition: AdversarialCondition, batch: Batch, first_round: int) -> Outcome:
    """Run a cascade, its first round on all images."""
    total = Outcome.of(batch)
    if first_round:
        total.images_forwarded = 0  # this look at the images as they are is counted with the first rounds
    everything = torch.ones_like(batch.labels, dtype=torch.bool)
    targets = None
    if condition.targets:
        draws = batch.draws.stream(TARGET_STREAM)
        targets = attacks.choose_targets(condition.targets, total.clean_logits, batch.labels, draws)
    runs = rounds(condition.attacks)[first_round:] + repetition(condition.attacks, batch.precision)
    _cascade(total, batch, runs, condition.threat, everything, targets)
    return total


def _cascade(
    total: Outcome,
    batch: Batch,
    runs: Sequence[Round],
    threat: ThreatModel,
    chosen: Tensor,
    targets: Tensor | None = None,
) -> Tensor:
    """Run rounds on the chosen images, each on those that are right, or aim for a target, and that the ones before left.

    Returns:
        Which of N were flipped or, with targets, reached theirs.
    """
    done, standing = torch.zeros_like(chosen), chosen
    for run in batch.runnable(runs):
        if not standing.any():
            break
        done = done | total.attack(batch, standing, run, threat, targets)
        standing = chosen & ~done & (total.right(batch) if targets is None else True)
    return done


def _curve(condition: CurveCondition, batch: Batch) -> Outcome:
    """Find for each image the first radius at which it falls, then halve the interval below it."""
    total = Outcome.of(batch)
    runs = rounds(condition.attacks) + repetition(condition.attacks, batch.precision)
    standing = torch.ones_like(batch.labels, dtype=torch.bool)
    stood_at = torch.zeros(len(batch.images), dtype=torch.float64, device=batch.labels.device)
    fell_at = torch.full_like(stood_at, math.nan)
    for threat in condition.threats:
        if not standing.any():
            break
        flipped = _cascade(total, batch, runs, threat, standing)
        fell_at[flipped] = threat.eps
        standing = total.right(batch) & ~total.flipped(batch)
        stood_at[standing] = threat.eps
    for _ in range(condition.refine):
        middle = (stood_at + fell_at) / 2
        for eps in middle[~fell_at.isnan()].unique().tolist():
            chosen = middle == eps
            threat = ThreatModel(condition.norm, eps)
            flipped = _cascade(total, batch, runs, threat, chosen)
            fell_at[flipped], stood_at[chosen & ~flipped] = eps, eps
    total.flipped_eps = fell_at
    return total
