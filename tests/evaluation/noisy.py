"""Randomised classifiers whose answers are known: linear ones with Gaussian noise."""

import math

import torch
from torch import Tensor, nn

import models
from evaluation.compute.conditions import Batch

SIDE = 6
SIGMA = 0.1


def phi(value: float) -> float:
    """Distribution function of the standard normal distribution."""
    return (1 + math.erf(value / math.sqrt(2))) / 2


class NoisyLinear(nn.Module):
    """Two logits whose difference is w x + b, for images x to which noise of deviation `SIGMA` is added."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        noisy = images + SIGMA * torch.randn_like(images)
        half = ((noisy - 0.5) * self.weight).flatten(1).sum(1, keepdim=True) / 2
        return torch.cat([-half, half], 1)


class NoisyGradient(NoisyLinear):
    """The same without noise in the images: the weights are random, four times as much as they are."""

    def forward(self, images: Tensor) -> Tensor:
        weights = self.weight + 4 * self.weight.abs().mean() * torch.randn_like(images)
        half = ((images - 0.5) * weights).flatten(1).sum(1, keepdim=True) / 2
        return torch.cat([-half, half], 1)


def card(**fields: object) -> models.ModelCard:
    return models.ModelCard.model_validate({
        "architecture": "torchscript",
        "classes": ("left", "right"),
        "preprocessing": {"resize": SIDE, "crop": SIDE, "mean": (0.0,) * 3, "std": (1.0,) * 3},
        **fields,
    })  # fmt: skip


def linear_batch(count: int, kind: type[NoisyLinear] = NoisyLinear, *, reach: float = 2.0, seed: int = 3) -> Batch:
    """Images near a hyperplane, at most `reach` deviations of the noise away from it, on the right side."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(1, 3, SIDE, SIDE, generator=generator)
    labels = torch.arange(count) % 2
    along = (2 * labels - 1) * torch.linspace(0, reach, count) * SIGMA / weight.norm()
    flat = 0.04 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    flat -= weight * (flat * weight).flatten(1).sum(1).view(-1, 1, 1, 1) / weight.square().sum()
    classifier = models.Classifier(kind(weight), card()).eval()
    return Batch(classifier, classifier, 0.5 + flat + along.view(-1, 1, 1, 1) * weight, labels, range(count), 7)


def right_share(batch: Batch, norm: str = "Linf", eps: float = 0.0) -> float:
    """Closed form: the largest change moves an image eps times the dual norm of the weights towards the other class."""
    weight = batch.classifier.network.weight
    assert isinstance(weight, Tensor)
    moved = eps * (weight.abs().sum() if norm == "Linf" else weight.norm()).item()
    margins = ((batch.images - 0.5) * weight).flatten(1).sum(1) * (2 * batch.labels - 1)
    spread = SIGMA * weight.norm().item()
    return sum(phi((margin - moved) / spread) for margin in margins.tolist()) / len(margins)
