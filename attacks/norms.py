"""Distances, projections, steepest steps and random points of the norm balls; images are (N, C, ...)."""

import torch
from torch import Tensor

from attacks.draws import Draws
from attacks.task import Norm

_TINY = 1e-10

GRADIENT_NORMS = frozenset({Norm.LINF, Norm.L2})
"""Norms with a projection and a steepest step below."""


_ORDER = {Norm.LINF: float("inf"), Norm.L2: 2.0, Norm.L1: 1.0}


def distance(difference: Tensor, norm: Norm) -> Tensor:
    """Compute the length of each image's difference, (N,).

    Sums are computed in float64: in float32, those of 224 x 224 pixels are off by more than the harness tolerates.
    """
    if norm is Norm.L0:
        return (difference.flatten(2) != 0).any(1).sum(1).to(difference.dtype)
    flat, exact = difference.flatten(1), None if norm is Norm.LINF else torch.float64
    return torch.linalg.vector_norm(flat, _ORDER[norm], dim=1, dtype=exact).to(difference.dtype)


def project(difference: Tensor, norm: Norm, eps: float) -> Tensor:
    """Project differences onto the ball of radius eps."""
    if norm is Norm.LINF:
        return difference.clamp(-eps, eps)
    return difference * (eps / _per_image(distance(difference, norm), difference).clamp(min=_TINY)).clamp(max=1)


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """Find the step of length 1 along which a linear function grows fastest, for any size of the gradient; zero if that is zero."""
    if norm is Norm.LINF:
        return gradient.sign()
    largest = gradient.abs().flatten(1).amax(1).clamp(min=torch.finfo(gradient.dtype).tiny)
    scaled = gradient / _per_image(largest, gradient)
    return scaled / _per_image(distance(scaled, norm).clamp(min=_TINY), gradient)


def random_difference(images: Tensor, norm: Norm, eps: float, draws: Draws) -> Tensor:
    """Draw a difference uniformly from the ball of radius eps around each image."""
    if norm is Norm.LINF:
        return (draws.uniform(images) * 2 - 1) * eps
    direction = steepest(draws.normal(images), norm)
    radius = draws.stream(1).uniform(images[:, :1, :1, :1]) ** (1 / images[0].numel())
    return direction * radius * eps


def moved(images: Tensor, difference: Tensor, norm: Norm, eps: float) -> Tensor:
    """Add a difference to images, projected onto the ball and then clipped to [0, 1]."""
    return torch.clamp(images + project(difference, norm, eps), 0, 1)


def ascend(images: Tensor, adversarial: Tensor, gradient: Tensor, *, norm: Norm, eps: float, length: float) -> Tensor:
    """Move adversarial images one step along the gradient, within the ball around the images and [0, 1]."""
    if norm is not Norm.LINF:
        return moved(images, adversarial + length * steepest(gradient, norm) - images, norm, eps)
    # In place: half the time, and exactly the same values.
    difference = gradient.sign().mul_(length).add_(adversarial).sub_(images).clamp_(-eps, eps)
    return difference.add_(images).clamp_(0, 1)


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))
