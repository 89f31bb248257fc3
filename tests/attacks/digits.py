"""Classifiers of scikit-learn's digits: by nearest class mean, whose right answers are known, and a small trained network."""

from dataclasses import dataclass
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import attacks
from attacks import Attack, Draws, Norm, ThreatModel

OWN = [name for name in attacks.attack_names() if not name.startswith("torchattacks:")]
"""Attacks of this project; those of torchattacks have tests of their own."""

BUDGETS = {Norm.LINF: ThreatModel(Norm.LINF, 0.1), Norm.L2: ThreatModel(Norm.L2, 0.6)}
"""A budget for each norm within which the models here lose many images, but not all."""

SMALL: dict[str, dict[str, Any]] = {
    "pgd": {"steps": 4},
    "apgd": {"steps": 5},
    "square": {"queries": 200},
    "fab": {"steps": 5},
}
"""Parameters that make an attack fast enough for properties that must hold at any; an attack not listed runs at its defaults."""


@dataclass(frozen=True)
class Digits:
    images: Tensor  # (1797, 1, 8, 8) in [0, 1]
    labels: Tensor  # (1797,) int64


def load() -> Digits:
    pixels, labels = load_digits(return_X_y=True)
    return Digits(torch.from_numpy(pixels / 16).float().view(-1, 1, 8, 8), torch.from_numpy(labels).long())


def nearest_mean(digits: Digits) -> nn.Module:
    """Logits 2 mu.x - |mu|^2: the class whose mean is nearest has the largest."""
    flat = digits.images.flatten(1).double()
    means = torch.stack([flat[digits.labels == label].mean(0) for label in range(10)])
    linear = nn.Linear(64, 10)
    with torch.no_grad():
        linear.weight.copy_(2 * means)
        linear.bias.copy_(-means.square().sum(1))
    return nn.Sequential(nn.Flatten(), linear).eval().requires_grad_(False)


def small_network(digits: Digits) -> nn.Module:
    """A small convolutional network with buffers, trained for a moment."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 10),
        )
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(network(digits.images), digits.labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return network.eval()


def small(name: str, **parameters: object) -> Attack:
    return attacks.create(name, **(SMALL.get(name, {}) | parameters))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(images: Tensor, seed: int = 0) -> Draws:
    return Draws.of(seed, range(len(images)))


def robust(run: attacks.AttackRun, labels: Tensor) -> Tensor:
    """Right on the clean image and not flipped, (N,) bool."""
    return (run.clean_logits.argmax(1) == labels) & ~run.flipped
