"""What a condition does to images of a randomised model, each by itself: passes of one image are a batch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

import attacks
import models
from attacks import ThreatModel
from evaluation.choices import MAX_RESTARTS, Averaging, Round, repetition, rounds
from evaluation.compute.conditions import TARGET_STREAM, Batch, Fall, Outcome
from evaluation.spec import (
    AdversarialCondition,
    CleanCondition,
    Condition,
    CurveCondition,
    EvaluationSpec,
    GridCondition,
    TransformCondition,
)

CLEAN_STREAM, CHOICE_STREAM, VERDICT_STREAM = range(MAX_RESTARTS + 2, MAX_RESTARTS + 5)
"""Streams of a model's own random draws: on the image as it is; where one of several changed images is chosen; where that one is
judged. So no image is judged by passes that it was chosen by, or by those that its attack saw."""


class Treatment(NamedTuple):
    """How a randomised model is evaluated, and why it is treated as one."""

    averaging: Averaging
    because: str

    @classmethod
    def of(cls, spec: EvaluationSpec, classifier: models.Classifier, *, differs: bool) -> "Treatment | None":
        """Ask the specification first, then the card, then what passes have shown; None if the model is not randomised."""
        if not spec.treats_as_randomised(classifier.card.randomised or differs):
            return None
        if spec.randomised:
            return cls(spec.averaging, "the evaluation says so")
        return cls(
            spec.averaging, "its card says so" if classifier.card.randomised else "two passes of the same image differ"
        )


def run_randomised(condition: Condition, batch: Batch, averaging: Averaging) -> Outcome:
    """Run a condition on a batch, image by image; raises as `run_condition` does."""
    ends = [_Image(batch, at, averaging).under(condition) for at in range(len(batch.images))]
    attacked = isinstance(condition, AdversarialCondition | CurveCondition)
    device = batch.images.device
    return Outcome(
        clean_logits=torch.cat([attacks.mean_prediction(end.clean) for end in ends]),
        logits=torch.cat([attacks.mean_prediction(end.logits) for end in ends]),
        images=torch.cat([end.found.image for end in ends]),
        images_forwarded=sum(end.images_forwarded for end in ends),
        distances=torch.tensor([end.found.distance for end in ends], device=device) if attacked else None,
        within_budget=torch.tensor([end.within_budget for end in ends], device=device) if attacked else None,
        reached=torch.tensor([end.reached for end in ends], device=device) if ends[0].reached is not None else None,
        flipped_eps=torch.tensor([end.flipped_eps for end in ends], device=device, dtype=torch.float64)
        if isinstance(condition, CurveCondition)
        else None,
        falls=[end.fall for end in ends],
        passes=averaging.judged_passes,
        clean_correct=[end.clean_correct for end in ends],
        correct=[end.correct for end in ends],
    )


@dataclass(frozen=True)
class _Found:
    """The worst image (1, C, H, W) so far: the passes that chose it, and where it comes from."""

    image: Tensor
    hits: int
    loss: float
    distance: float = 0.0
    fall: Fall | None = None

    def worse_than(self, other: "_Found") -> bool:
        """Whether more passes hit the goal or, where as many do, the mean loss is larger."""
        return (self.hits, self.loss) > (other.hits, other.loss)


@dataclass(frozen=True)
class _End:
    """What came of one image: passes (M, K) as it is and as it was found, and those of them that are right."""

    clean: Tensor
    logits: Tensor
    found: _Found
    clean_correct: int
    correct: int
    images_forwarded: int
    within_budget: bool = True
    fall: Fall | None = None
    reached: bool | None = None
    flipped_eps: float = math.nan


class _Image:
    """One image of a batch, whose passes are counted."""

    def __init__(self, batch: Batch, at: int, averaging: Averaging) -> None:
        one = slice(at, at + 1)
        self._batch, self._averaging = batch, averaging
        self._image, self._label = batch.images[one], batch.labels[one]
        self._draws = batch.draws[torch.tensor([at], device=batch.labels.device)]
        self._forwarded, self._within = 0, True

    def under(self, condition: Condition) -> _End:
        """Run a condition."""
        match condition:
            case CleanCondition():
                return self._ended(self._as_it_is(), self._clean)
            case TransformCondition():
                return self._judged(self._changed([condition.create()]))
            case GridCondition():
                return self._judged(self._changed(condition.create()))
            case AdversarialCondition():
                runs = rounds(condition.attacks) + repetition(condition.attacks, self._batch.precision)
                target = None if condition.targets is None else self._target(condition.targets)
                return self._judged(self._attacked(runs, condition.threat, target), target)
            case CurveCondition():
                return self._curve(condition)

    @cached_property
    def _clean(self) -> Tensor:
        return self._passes(self._image, CLEAN_STREAM)

    @property
    def _is_right(self) -> bool:
        """Whether most passes are right on the image as it is."""
        return 2 * attacks.agreeing(self._clean, self._label) > len(self._clean)

    def _passes(self, image: Tensor, stream: int) -> Tensor:
        count = self._averaging.judged_passes
        self._forwarded += count
        return attacks.passes(self._batch.classifier, image, self._draws.stream(stream), count)

    def _as_it_is(self) -> _Found:
        return _Found(self._image, 0, 0.0)

    def _chosen_by(self, found: _Found, target: Tensor | None) -> _Found:
        """Look how far an image is from the goal: away from its label, or at its target."""
        logits = self._passes(found.image, CHOICE_STREAM)
        goal = self._label if target is None else target
        agreeing, loss = (
            attacks.agreeing(logits, goal),
            attacks.log_odds_against(logits, goal.expand(len(logits))).mean(),
        )
        hits, loss = (len(logits) - agreeing, loss) if target is None else (agreeing, -loss)
        return replace(found, hits=hits, loss=loss.item())

    def _changed(self, transforms: Sequence[attacks.Transform]) -> _Found:
        """The image under the transform that most passes get wrong."""
        changed = [_Found(each.apply(self._image, self._draws.stream(0)), 0, 0.0) for each in transforms]
        return changed[0] if len(changed) == 1 else self._worst(changed)

    def _worst(self, changed: Sequence[_Found]) -> _Found:
        worst = self._chosen_by(changed[0], None)
        for each in changed[1:]:
            if worst.hits == self._averaging.judged_passes:
                break
            looked_at = self._chosen_by(each, None)
            worst = looked_at if looked_at.worse_than(worst) else worst
        return worst

    def _target(self, rule: attacks.TargetRule) -> Tensor:
        logits = attacks.mean_prediction(self._clean)
        return attacks.choose_targets(rule, logits, self._label, self._draws.stream(TARGET_STREAM))

    def _attacked(self, runs: Sequence[Round], threat: ThreatModel, target: Tensor | None) -> _Found:
        """The worst of the image as it is and of what the attacks propose; the last is the one that all choosing passes fall to."""
        worst = self._chosen_by(self._as_it_is(), target)
        for run in self._batch.runnable(runs):
            if worst.hits == self._averaging.judged_passes:
                break
            candidate = self._proposed(run, threat, target)
            self._within = self._within and candidate.within_budget
            if candidate.within_budget:
                fall = Fall(run.choice.name, run.restart, candidate.steps, run.repeated)
                found = _Found(candidate.image, 0, 0.0, candidate.distance, fall)
                found = self._chosen_by(found, target)
                worst = found if found.worse_than(worst) else worst
        return worst

    def _proposed(self, run: Round, threat: ThreatModel, target: Tensor | None) -> attacks.Candidate:
        batch = self._batch
        model = batch.classifier if run.repeated else batch.searched
        draws = self._draws.stream(run.restart)
        candidate = attacks.search_averaged(
            run.choice.create(),
            attacks.Task(model, self._image, self._label, threat, draws, target),
            passes=self._averaging.eot_passes,
            searched_as="ieee" if run.repeated else models.float32_in(batch.precision),
        )
        self._forwarded += candidate.images_forwarded
        return candidate

    def _judged(self, found: _Found, target: Tensor | None = None) -> _End:
        """Judge an image by passes that neither an attack nor a choice has seen."""
        return self._ended(found, self._passes(found.image, VERDICT_STREAM), target)

    def _ended(self, found: _Found, logits: Tensor, target: Tensor | None = None) -> _End:
        correct = attacks.agreeing(logits, self._label)
        flipped = self._is_right and 2 * correct <= len(logits)
        return _End(
            clean=self._clean,
            logits=logits,
            found=found,
            clean_correct=attacks.agreeing(self._clean, self._label),
            correct=correct,
            images_forwarded=self._forwarded,
            within_budget=self._within,
            fall=found.fall if flipped else None,
            reached=None if target is None else 2 * attacks.agreeing(logits, target) > len(logits),
        )

    def _curve(self, condition: CurveCondition) -> _End:
        """Find the first radius at which most passes fall, then halve the interval below it."""
        runs = rounds(condition.attacks) + repetition(condition.attacks, self._batch.precision)
        stood_at, end = 0.0, self._judged(self._as_it_is())
        if not self._is_right:
            return end
        for threat in condition.threats:
            end = self._judged(self._attacked(runs, threat, None))
            if end.fall:
                break
            stood_at = threat.eps
        else:
            return end
        fell_at = threat.eps
        for _ in range(condition.refine):
            middle = (stood_at + fell_at) / 2
            tried = self._judged(self._attacked(runs, ThreatModel(condition.norm, middle), None))
            if tried.fall:
                end, fell_at = tried, middle
            else:
                stood_at = middle
        return replace(end, flipped_eps=fell_at, images_forwarded=self._forwarded)
