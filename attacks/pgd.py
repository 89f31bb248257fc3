"""Projected gradient descent and its relatives of fewer steps."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from attacks._norms import GRADIENT_NORMS, moved, random_difference, steepest
from attacks._random import Generator, subset
from attacks._registry import register_attack
from attacks._types import Norm, PixelScale, ThreatModel


@register_attack("pgd")
@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected gradient descent (Madry et al. 2018, arXiv:1706.06083, Sec. 2.1).

    Ascends the cross-entropy of the label, or descends that of the target, along the sign of the gradient (Linf) or the
    normalised gradient (L2). The last iterate counts; a restart attacks only the images that still stand.
    """

    norms: ClassVar[frozenset[Norm]] = GRADIENT_NORMS
    targetable: ClassVar[bool] = True

    steps: Annotated[int, Field(ge=1, le=10_000, description="gradient steps")] = 20
    step_size: Annotated[PixelScale | None, Field(description="length of a step; without it 2.5 * eps / steps")] = None
    random_start: Annotated[bool, Field(description="start at a random point of the ball")] = True
    restarts: Annotated[int, Field(ge=1, le=1_000, description="independent runs, the first success counts")] = 1

    @property
    def title(self) -> str:
        """For example "PGD-20" or "PGD-20 x 5"."""
        return f"PGD-{self.steps}" + (f" x {self.restarts}" if self.restarts > 1 else "")

    @property
    def passes(self) -> int:
        """Three a step; between restarts, one to see which images still stand."""
        return 3 * self.steps * self.restarts + self.restarts - 1

    def perturb(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        threat: ThreatModel,
        generator: Generator,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Propose adversarial images; see `Attack.perturb`."""
        adversarial = self._run_once(model, images, labels, threat, generator, targets)
        for _ in range(self.restarts - 1):
            standing = _standing(model, adversarial, labels, targets)
            if not standing.any():
                break
            adversarial[standing] = self._run_once(
                model,
                images[standing],
                labels[standing],
                threat,
                subset(generator, standing),
                None if targets is None else targets[standing],
            )
        return adversarial

    def _run_once(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        generator: Generator,
        targets: Tensor | None,
    ) -> Tensor:
        step_size = 2.5 * threat.eps / self.steps if self.step_size is None else self.step_size
        sign, classes = (1, labels) if targets is None else (-1, targets)
        adversarial = images
        if self.random_start:
            start = random_difference(images, threat.norm, threat.eps, generator)
            adversarial = moved(images, start, threat.norm, threat.eps)
        for _ in range(self.steps):
            gradient = sign * input_gradient(model, adversarial, classes)
            ahead = adversarial + step_size * steepest(gradient, threat.norm)
            adversarial = moved(images, ahead - images, threat.norm, threat.eps)
        return adversarial


@register_attack("fgsm")
@dataclass(frozen=True, kw_only=True)
class FGSM:
    """Fast gradient (sign) method (Goodfellow, Shlens, Szegedy 2015, arXiv:1412.6572): PGD's single step of length eps."""

    norms: ClassVar[frozenset[Norm]] = GRADIENT_NORMS
    targetable: ClassVar[bool] = True
    title: ClassVar[str] = "FGSM"
    passes: ClassVar[int] = 3

    def perturb(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        threat: ThreatModel,
        generator: Generator,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Propose adversarial images; see `Attack.perturb`."""
        step = PGD(steps=1, step_size=threat.eps, random_start=False)
        return step.perturb(model, images, labels, threat=threat, generator=generator, targets=targets)


@register_attack("noise")
@dataclass(frozen=True, kw_only=True)
class Noise:
    """Uniform noise from the ball: the start of PGD without its steps, a floor that every attack must beat."""

    norms: ClassVar[frozenset[Norm]] = GRADIENT_NORMS
    targetable: ClassVar[bool] = False
    title: ClassVar[str] = "noise"
    passes: ClassVar[int] = 0

    def perturb(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        threat: ThreatModel,
        generator: Generator,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Propose noisy images; see `Attack.perturb`. Model, labels and targets are not looked at."""
        difference = random_difference(images, threat.norm, threat.eps, generator)
        return moved(images, difference, threat.norm, threat.eps)


def input_gradient(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Gradient of the cross-entropy of `classes` (N,) with respect to the images (N, C, H, W).

    The losses are summed, not averaged, and in float32 at least: an image's gradient does not shrink with its batch.
    """
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        logits = model(leaf)
        loss = F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), classes, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient


def _standing(model: nn.Module, images: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    with torch.no_grad():
        predictions = model(images).argmax(1)
    return predictions == labels if targets is None else predictions != targets
