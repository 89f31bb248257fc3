"""Auto-PGD: projected gradient descent that chooses its own step size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from attacks.averaged import Averaged, mean_losses
from attacks.draws import Draws
from attacks.gradient import look
from attacks.norms import GRADIENT_NORMS, distance, moved, steepest
from attacks.registry import register_attack
from attacks.standing import Standing
from attacks.targets import log_odds_against, predictions
from attacks.task import Norm, Proposal, Task, ThreatModel

MOMENTUM = 0.75
"""Weight of the new direction; the last one has the rest."""


@register_attack("apgd")
@dataclass(frozen=True, kw_only=True)
class APGD:
    """Auto-PGD (Croce, Hein 2020, arXiv:2003.01690, Sec. 3 and 4).

    The step size starts at twice eps. It is halved, and the search returns to its best point, whenever the loss has not risen often
    enough between two checkpoints. The loss is the cross-entropy ("ce"), the difference of logits ratio ("dlr"), or its targeted
    form towards each of the likeliest wrong classes in turn ("targeted_dlr": APGD-T of the paper).

    The first misclassified iterate is returned, or else the one with the largest loss. Deviations: flipped images leave the batch,
    which changes no verdict; the cross-entropy is replaced by the log-odds, which rise and fall with it and do not saturate in
    float32 where the model is certain.
    """

    norms: ClassVar[frozenset[Norm]] = GRADIENT_NORMS
    targetable: ClassVar[bool] = False
    uses_gradient: ClassVar[bool] = True

    steps: Annotated[int, Field(ge=1, le=10_000, description="gradient steps of a run")] = 100
    loss: Annotated[Literal["ce", "dlr", "targeted_dlr"], Field(description="loss to increase")] = "ce"
    targets_tried: Annotated[int, Field(ge=1, le=1_000, description="wrong classes that targeted_dlr aims for")] = 9
    rho: Annotated[float, Field(gt=0, lt=1, description="share of steps that must raise the loss")] = 0.75

    @property
    def title(self) -> str:
        """For example "APGD-CE-100" or "APGD-T-100"."""
        kind = {"ce": "CE", "dlr": "DLR", "targeted_dlr": "T"}[self.loss]
        return f"APGD-{kind}-{self.steps}"

    @property
    def passes(self) -> int:
        """Three per step, three at the start of each run, and one for the ranking of the classes."""
        runs = self.targets_tried if self.loss == "targeted_dlr" else 1
        return 3 * (self.steps + 1) * runs + 1

    def notice(self, classes: int) -> str | None:
        """Name the loss that is used instead of one that needs more classes."""
        if self.loss == "dlr" and classes < 3:
            return f"the DLR loss needs 3 classes, there are {classes}: cross-entropy is used instead"
        if self.loss == "targeted_dlr" and classes < 4:
            return f"the targeted DLR loss needs 4 classes, there are {classes}: the difference of the two logits is used instead"
        return None

    def perturb(self, task: Task) -> Proposal:
        """See `Attack.perturb`."""
        model, images, labels, threat, draws = task.model, task.images, task.labels, task.threat, task.draws
        with torch.no_grad():
            ranking = model(images).scatter(1, labels.unsqueeze(1), -torch.inf).argsort(1, descending=True)
        adversarial, standing = images.clone(), torch.ones_like(labels, dtype=torch.bool)
        steps = torch.zeros_like(labels)
        for run, aim in enumerate(self._aims(ranking)):
            if not standing.any():
                break
            loss = _Losses(self.loss, labels[standing], None if aim is None else aim[standing])
            found, taken, flipped = self._run_once(
                model, images[standing], labels[standing], loss, threat, draws[standing].stream(run)
            )
            if run and isinstance(model, Averaged):
                found = _worse(model, adversarial[standing], found, labels[standing])
            adversarial[standing] = found
            steps[standing] += taken
            standing = standing.masked_scatter(standing, ~flipped)
        return Proposal(adversarial, steps)

    def _aims(self, ranking: Tensor) -> Sequence[Tensor | None]:
        """One class per image (N,) for each run, the likeliest wrong one first; None if the loss is not targeted."""
        if self.loss != "targeted_dlr":
            return [None]
        return ranking[:, : min(self.targets_tried, ranking.shape[1] - 1)].unbind(1)

    def _run_once(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        loss: "_Losses",
        threat: ThreatModel,
        draws: Draws,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run from a random start; returns images (N, C, H, W), the steps to each (N,), and which are misclassified (N,)."""
        start = moved(images, _start(images, threat.norm, draws) * threat.eps, threat.norm, threat.eps)
        state = _State.at(model, images, labels, start, loss, 2 * threat.eps)
        standing, checkpoints = Standing(images, model=model), set(_checkpoints(self.steps))
        last_checkpoint = 0
        for step in range(self.steps + 1):
            remaining = standing.after(step, state.current, state.wrong)
            if remaining is not None:
                state = state.of_images(remaining)
            if step == self.steps or not len(standing):
                break
            state.advance(model, threat, momentum=MOMENTUM if step else 1.0)
            if step + 1 in checkpoints:
                state.halve(threshold=self.rho * (step + 1 - last_checkpoint))
                last_checkpoint = step + 1
        standing.end(self.steps, state.best)
        return standing.adversarial, standing.steps, standing.flipped


def _worse(model: nn.Module, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
    """Those of two images (N, C, H, W) with the larger log-odds against the label, on the same passes of a randomised model."""
    values = mean_losses(model, torch.cat([first, second]), _Losses("ce", labels.repeat(2), None))
    before, after = values.chunk(2)
    return torch.where((after > before).view(-1, 1, 1, 1), second, first)


def _checkpoints(steps: int) -> Iterator[int]:
    """Steps after which the step size is checked: the first gap is 22 % of all steps, each next one 3 % less, down to 6 %."""
    gap, least, shrink = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    at = gap
    while at <= steps:
        yield at
        gap = max(gap - shrink, least)
        at += gap


@dataclass
class _Losses:
    """The loss to increase for N images with these labels, and the classes to move towards if it is targeted."""

    kind: Literal["ce", "dlr", "targeted_dlr"]
    labels: Tensor
    aim: Tensor | None

    def of_images(self, chosen: Tensor) -> "_Losses":
        return _Losses(self.kind, self.labels[chosen], None if self.aim is None else self.aim[chosen])

    def __call__(self, logits: Tensor) -> Tensor:
        """Loss (N,) of logits (N, K), in float32 or wider."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        classes = logits.shape[1]
        if self.kind == "ce" or (self.kind == "dlr" and classes < 3):
            return log_odds_against(logits, self.labels)
        of_label = logits.gather(1, self.labels.unsqueeze(1)).squeeze(1)
        ordered = logits.sort(1, descending=True).values
        if self.aim is None:
            other = torch.where(of_label == ordered[:, 0], ordered[:, 1], ordered[:, 0])
            return (other - of_label) / (ordered[:, 0] - ordered[:, 2] + 1e-12)
        towards = logits.gather(1, self.aim.unsqueeze(1)).squeeze(1) - of_label
        if classes < 4:
            return towards
        return towards / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + 1e-12)


def _start(images: Tensor, norm: Norm, draws: Draws) -> Tensor:
    """A random difference of length 1, as the authors' code draws it: on the surface of the ball."""
    if norm is Norm.LINF:
        drawn = 2 * draws.uniform(images) - 1
        return drawn / distance(drawn, norm).view(-1, 1, 1, 1).clamp(min=1e-12)
    return steepest(draws.normal(images), norm)


@dataclass
class _State:
    """The state of a run for the N images that are not flipped.

    Attributes:
        images: the clean images.
        loss: the loss to increase.
        current: the iterate; `previous` is the one before.
        gradient: of the loss at the iterate.
        value: loss at the iterate, (N,).
        wrong: whether the iterate is misclassified, (N,).
        best: the iterate with the largest loss; `best_gradient` and `best_value` are its gradient and loss.
        length: of the step, (N, 1, 1, 1).
        rises: how often the loss has risen since the last checkpoint, (N,).
        best_then: largest loss at the last checkpoint.
        halved_then: whether the step was halved at the last checkpoint.
    """

    images: Tensor
    loss: _Losses
    current: Tensor
    previous: Tensor
    gradient: Tensor
    value: Tensor
    wrong: Tensor
    best: Tensor
    best_gradient: Tensor
    best_value: Tensor
    length: Tensor
    rises: Tensor
    best_then: Tensor
    halved_then: Tensor

    @classmethod
    def at(
        cls, model: nn.Module, images: Tensor, labels: Tensor, start: Tensor, loss: _Losses, length: float
    ) -> "_State":
        value, gradient, wrong = _assess(model, start, loss)
        return cls(
            images=images,
            loss=loss,
            current=start,
            previous=start,
            gradient=gradient,
            value=value,
            wrong=wrong,
            best=start.clone(),
            best_gradient=gradient.clone(),
            best_value=value.clone(),
            length=torch.full_like(images[:, :1, :1, :1], length),
            rises=torch.zeros_like(labels),
            best_then=value.clone(),
            halved_then=torch.ones_like(labels, dtype=torch.bool),
        )

    def of_images(self, chosen: Tensor) -> "_State":
        """Return the state of the images that indices (M,) select."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        selected = {name: value[chosen] for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **selected, loss=self.loss.of_images(chosen))

    def advance(self, model: nn.Module, threat: ThreatModel, *, momentum: float) -> None:
        """Take a step along the gradient with momentum, and assess the new iterate."""
        norm, eps = threat.norm, threat.eps
        ahead = self.current + self.length * steepest(self.gradient, norm)
        ahead = moved(self.images, ahead - self.images, norm, eps)
        mixed = self.current + momentum * (ahead - self.current) + (1 - momentum) * (self.current - self.previous)
        self.previous, self.current = self.current, moved(self.images, mixed - self.images, norm, eps)
        before = self.value
        self.value, self.gradient, self.wrong = _assess(model, self.current, self.loss)
        self.rises = self.rises + (self.value > before)
        better = self.value > self.best_value
        at = better.view(-1, 1, 1, 1)
        torch.where(at, self.current, self.best, out=self.best)
        torch.where(at, self.gradient, self.best_gradient, out=self.best_gradient)
        self.best_value = torch.where(better, self.value, self.best_value)

    def halve(self, *, threshold: float) -> None:
        """Halve the step where the loss rose at most `threshold` times or has no new best, and return to the best iterate."""
        stuck = ~self.halved_then & (self.best_then >= self.best_value)
        halved = (self.rises <= threshold) | stuck
        self.length = torch.where(halved.view(-1, 1, 1, 1), self.length / 2, self.length)
        at = halved.view(-1, 1, 1, 1)
        self.current = torch.where(at, self.best, self.current)
        self.gradient = torch.where(at, self.best_gradient, self.gradient)
        self.halved_then, self.best_then = halved, self.best_value.clone()
        self.rises = torch.zeros_like(self.rises)


def _assess(model: nn.Module, images: Tensor, loss: _Losses) -> tuple[Tensor, Tensor, Tensor]:
    """Loss (N,), its gradient with respect to the images, and which images are misclassified (N,)."""
    logits, values, gradient = look(model, images, loss)
    return values, gradient, predictions(logits) != loss.labels
