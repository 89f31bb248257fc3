"""Projected gradient descent, and its simpler relatives FGSM and noise."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from attacks.gradient import look
from attacks.norms import GRADIENT_NORMS, ascend, moved, random_difference
from attacks.registry import register_attack
from attacks.standing import Standing
from attacks.targets import log_odds_against, predictions
from attacks.task import Norm, PixelScale, Proposal, Task


@register_attack("pgd")
@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected gradient descent (Madry et al. 2018, arXiv:1706.06083, Sec. 2.1).

    Ascends the cross-entropy of the label, or descends that of the target, along the sign of the gradient (Linf) or the
    normalised gradient (L2). The gradient is taken of the log-odds, which has the same direction and does not vanish in float32
    where the model is certain: the result does not depend on the scale of the logits where the softmax saturates.

    `counts` chooses between two definitions. "any_step": was the model wrong (or at the target) on any iterate? An image leaves the
    batch as soon as it is flipped; the next step's forward pass shows this at no extra cost. "last_step": is the model wrong on the
    last iterate? That is the classic definition, and never finds more.
    """

    norms: ClassVar[frozenset[Norm]] = GRADIENT_NORMS
    targetable: ClassVar[bool] = True
    uses_gradient: ClassVar[bool] = True

    steps: Annotated[int, Field(ge=1, le=10_000, description="gradient steps")] = 20
    step_size: Annotated[PixelScale | None, Field(description="length of a step; by default 2.5 * eps / steps")] = None
    random_start: Annotated[bool, Field(description="start at a random point of the ball")] = True
    counts: Annotated[
        Literal["any_step", "last_step"], Field(description="which iterates count: all of them, or only the last")
    ] = "any_step"

    @property
    def title(self) -> str:
        """For example "PGD-20" or "PGD-20 (last step)"."""
        return f"PGD-{self.steps}" + (" (last step)" if self.counts == "last_step" else "")

    @property
    def passes(self) -> int:
        """Three per step."""
        return 3 * self.steps

    def perturb(self, task: Task) -> Proposal:
        """See `Attack.perturb`."""
        images, norm, eps, goal = task.images, task.threat.norm, task.threat.eps, Goal.of(task)
        length = 2.5 * eps / self.steps if self.step_size is None else self.step_size
        start = random_difference(images, norm, eps, task.draws) if self.random_start else 0 * images
        current = moved(images, start, norm, eps)
        standing = Standing(images, model=task.model)
        for step in range(self.steps):
            logits, _, gradient = look(task.model, current, goal)
            if self.counts == "any_step":
                remaining = standing.after(step, current, ~goal.missed(logits))
                if remaining is not None:
                    images, current, gradient = (each[remaining] for each in (images, current, gradient))
                    goal = goal.of_images(remaining)
                    if not len(standing):
                        break
            current = ascend(images, current, gradient, norm=norm, eps=eps, length=length)
        standing.end(self.steps, current)
        return standing.proposal


@register_attack("fgsm")
@dataclass(frozen=True, kw_only=True)
class FGSM:
    """Fast gradient (sign) method (Goodfellow, Shlens, Szegedy 2015, arXiv:1412.6572): PGD's single step of length eps."""

    norms: ClassVar[frozenset[Norm]] = GRADIENT_NORMS
    targetable: ClassVar[bool] = True
    uses_gradient: ClassVar[bool] = True
    title: ClassVar[str] = "FGSM"
    passes: ClassVar[int] = 3

    def perturb(self, task: Task) -> Proposal:
        """See `Attack.perturb`."""
        return PGD(steps=1, step_size=task.threat.eps, random_start=False, counts="last_step").perturb(task)


@register_attack("noise")
@dataclass(frozen=True, kw_only=True)
class Noise:
    """Uniform noise from the ball: PGD's random start without its steps, a floor that every attack must beat."""

    norms: ClassVar[frozenset[Norm]] = GRADIENT_NORMS
    targetable: ClassVar[bool] = False
    uses_gradient: ClassVar[bool] = False
    title: ClassVar[str] = "noise"
    passes: ClassVar[int] = 0

    def perturb(self, task: Task) -> Proposal:
        """See `Attack.perturb`."""
        norm, eps = task.threat.norm, task.threat.eps
        return Proposal(moved(task.images, random_difference(task.images, norm, eps, task.draws), norm, eps))


@dataclass(frozen=True)
class Goal:
    """The goal for N images: to move away from a class, or towards one (N,)."""

    classes: Tensor
    towards: bool

    @classmethod
    def of(cls, task: Task) -> "Goal":
        """Create the goal of a task: away from the labels, or towards the targets if there are any."""
        return cls(task.labels, towards=False) if task.targets is None else cls(task.targets, towards=True)

    def __call__(self, logits: Tensor) -> Tensor:
        """Loss (N,) to increase: the log-odds against the label, or for the target; its direction is the cross-entropy's."""
        losses = log_odds_against(logits, self.classes)
        return -losses if self.towards else losses

    def missed(self, logits: Tensor) -> Tensor:
        """Which images have not reached the goal, (N,) bool."""
        return (predictions(logits) == self.classes) != self.towards

    def repeated(self, times: int) -> "Goal":
        """The goal for copies of the images: all of them once, then all of them again, and so on."""
        return Goal(self.classes.repeat(times), self.towards)

    def of_images(self, chosen: Tensor) -> "Goal":
        """Return the goal of the images that a mask (N,) or indices (M,) select."""
        return Goal(self.classes[chosen], self.towards)
