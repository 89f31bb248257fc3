"""Noise: Gaussian, shot, impulse, speckle."""

import math
from functools import cache

import torch
from torch import Tensor

from attacks.draws import Draws
from attacks.transforms.corruptions.effects import Strength, effect, singles


@effect(
    "gaussian_noise",
    imagenet=singles(0.08, 0.12, 0.18, 0.26, 0.38),
    cifar=singles(0.04, 0.06, 0.08, 0.09, 0.10),
)
def _gaussian_noise(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    return images + strength[0] * draws.normal(images)


@effect(
    "shot_noise",
    imagenet=singles(60, 25, 12, 5, 3),
    cifar=singles(500, 250, 100, 75, 50),
)
def _shot_noise(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    return _poisson(images * strength[0], int(strength[0]), draws).to(images) / strength[0]


def _poisson(rates: Tensor, largest: int, draws: Draws) -> Tensor:
    """Poisson counts (N, ...) of rates up to a largest: the sum of counts of the rate's whole part and of its fraction."""
    whole = rates.double().floor()
    table = _poisson_table(largest).to(rates.device)
    counts = torch.searchsorted(table.view(-1), whole + draws.stream(0).uniform(whole), right=True)
    counts -= whole.long() * table.shape[1]
    rest, above = rates - whole, draws.stream(1).uniform(whole)
    chance = torch.exp(-rest)
    for count in range(1, 12):  # more than 11 have a probability of 1e-9
        above -= chance
        counts += above >= 0
        chance = chance * rest / count
    return counts


@cache
def _poisson_table(largest: int) -> Tensor:
    """Row n is n plus the probabilities of at most 0, 1, ... counts at the rate n, float64: a sorted table of all whole rates."""
    rates = torch.arange(largest + 1, dtype=torch.float64)[:, None]
    counts = torch.arange(largest + 10 * math.isqrt(largest) + 20, dtype=torch.float64)
    odds = torch.exp(torch.special.xlogy(counts, rates) - rates - torch.lgamma(counts + 1))
    return rates + odds.cumsum(1).clamp(max=1)


@effect(
    "impulse_noise",
    imagenet=singles(0.03, 0.06, 0.09, 0.17, 0.27),
    cifar=singles(0.01, 0.02, 0.03, 0.05, 0.07),
)
def _impulse_noise(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    drawn = draws.uniform(images)
    salted = torch.where(drawn < strength[0], 1.0, images)
    return torch.where(drawn < strength[0] / 2, 0.0, salted)


@effect(
    "speckle_noise",
    imagenet=singles(0.15, 0.2, 0.35, 0.45, 0.6),
    cifar=singles(0.06, 0.1, 0.12, 0.16, 0.2),
)
def _speckle_noise(images: Tensor, strength: Strength, draws: Draws) -> Tensor:
    return images + images * strength[0] * draws.normal(images)
