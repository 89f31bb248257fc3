"""What a corruption does to images, and how much of it at each severity."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from attacks.draws import Draws
from common import Registry

Strength = Sequence[float]
"""Parameters of one severity."""

Corrupt = Callable[[Tensor, Strength, Draws], Tensor]
"""Changes images (N, C, H, W) in [0, 1]; the result is clipped to that range."""


@dataclass(frozen=True)
class Effect:
    """One corruption.

    Attributes:
        corrupt: applies it to images.
        imagenet: parameters of its five severities in ImageNet-C.
        cifar: those in CIFAR-10-C.
    """

    corrupt: Corrupt
    imagenet: Sequence[Strength]
    cifar: Sequence[Strength]


EFFECTS = Registry[Effect]("corruption")


def effect(name: str, *, imagenet: Sequence[Strength], cifar: Sequence[Strength]) -> Callable[[Corrupt], Corrupt]:
    """Register a function as a corruption."""

    def decorate(corrupt: Corrupt) -> Corrupt:
        EFFECTS.add(name, Effect(corrupt, imagenet, cifar))
        return corrupt

    return decorate


def singles(*values: float) -> list[Strength]:
    """Parameters of severities that have one each."""
    return [(value,) for value in values]
