"""PGD with gradients averaged over a neighbourhood, for models whose gradient ripples or shatters."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from attacks.draws import Draws
from attacks.gradient import look
from attacks.methods.pgd import Goal
from attacks.norms import GRADIENT_NORMS, ascend, moved, random_difference, steepest
from attacks.registry import register_attack
from attacks.standing import Standing
from attacks.task import Norm, Proposal, Task, ThreatModel

BATCH_PIXELS = 2**20
"""Height times width times number of noisy images in a batch."""


@register_attack("smoothed_pgd")
@dataclass(frozen=True, kw_only=True)
class SmoothedPGD:
    """PGD on the model smoothed by noise: each step follows the sum of all gradients so far, each a mean over noisy copies.

    If a defence adds a ripple to the loss, a single gradient describes only the ripple; the mean over a neighbourhood larger than
    the ripple's period describes the model beneath (the idea of Athalye, Carlini, Wagner 2018, arXiv:1802.00420, Sec. 4 and 5, with
    the sum over steps of Dong et al. 2018, arXiv:1710.06081). Steps are 2.5 * eps / steps long; the first misclassified iterate
    counts.
    """

    norms: ClassVar[frozenset[Norm]] = GRADIENT_NORMS
    targetable: ClassVar[bool] = True
    uses_gradient: ClassVar[bool] = True

    steps: Annotated[int, Field(ge=1, le=10_000, description="gradient steps")] = 10
    samples: Annotated[int, Field(ge=1, le=1_000, description="noisy copies of an image at each step")] = 8
    radius: Annotated[float, Field(gt=0, le=1, description="length of the noise as a share of eps")] = 0.5

    @property
    def title(self) -> str:
        """For example "smoothed PGD-10"."""
        return f"smoothed PGD-{self.steps}"

    @property
    def passes(self) -> int:
        """Three per copy and step, and one per step to classify the iterate."""
        return self.steps * (3 * self.samples + 1)

    def perturb(self, task: Task) -> Proposal:
        """See `Attack.perturb`."""
        model, images, threat, draws = task.model, task.images, task.threat, task.draws
        norm, eps, goal = threat.norm, threat.eps, Goal.of(task)
        length = 2.5 * eps / self.steps
        current = moved(images, random_difference(images, norm, eps, draws.stream(0)), norm, eps)
        standing, direction = Standing(images, model=model), torch.zeros_like(images)
        for step in range(self.steps):
            direction = direction + steepest(
                self._mean_gradient(model, current, goal, threat, draws.stream(1 + step)), Norm.L2
            )
            current = ascend(images, current, direction, norm=norm, eps=eps, length=length)
            with torch.no_grad():
                remaining = standing.after(step + 1, current, ~goal.missed(model(current)))
            if remaining is not None:
                images, current, direction = (each[remaining] for each in (images, current, direction))
                goal, draws = goal.of_images(remaining), draws[remaining]
                if not len(standing):
                    break
        standing.end(self.steps, current)
        return standing.proposal

    def _mean_gradient(self, model: nn.Module, images: Tensor, goal: Goal, threat: ThreatModel, draws: Draws) -> Tensor:
        """Sum of gradients over noisy copies, in full batches: a batch of few images takes as long as one of many."""
        total, at_once = torch.zeros_like(images), max(1, BATCH_PIXELS // images[:, 0].numel())
        for samples in torch.arange(self.samples).split(at_once):
            noise = [
                random_difference(images, threat.norm, self.radius * threat.eps, draws.stream(sample))
                for sample in samples.tolist()
            ]
            copies = torch.cat([(images + each).clamp(0, 1) for each in noise])
            for gradient in look(model, copies, goal.repeated(len(noise))).gradient.chunk(len(noise)):
                total += gradient
        return total
