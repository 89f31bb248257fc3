"""Architectures by name."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from common import Registry


@dataclass(frozen=True)
class ModelSpec:
    """One architecture.

    Attributes:
        name: what `create` takes.
        build: makes the bare network from `num_classes` and the architecture's own options.
        input_shape: (C, H, W) that the architecture was published for.
        paper: where it is described.
    """

    name: str
    build: Callable[..., nn.Module]
    input_shape: tuple[int, int, int]
    paper: str


_REGISTRY = Registry[ModelSpec]("architecture")


def register(spec: ModelSpec) -> None:
    """Make an architecture known under its name.

    Raises:
        ValueError: the name is taken.
    """
    _REGISTRY.add(spec.name, spec)


def names() -> list[str]:
    """List the names of all architectures."""
    return _REGISTRY.names()


def spec(name: str) -> ModelSpec:
    """Look up an architecture.

    Raises:
        UnknownNameError: there is none of that name.
    """
    return _REGISTRY[name]


def create(name: str, *, num_classes: int = 1000, **options: object) -> nn.Module:
    """Build a network with fresh weights; it takes normalised images (N, 3, H, W) and returns logits (N, num_classes).

    Args:
        name: an architecture, one of `names()`.
        num_classes: number of logits, at least 1.
        options: the architecture's own constructor arguments.

    Raises:
        UnknownNameError: there is no such architecture.
        ValueError: it has no such option, or `num_classes` is not positive.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    build = spec(name).build
    allowed = [parameter for parameter in inspect.signature(build).parameters if parameter != "num_classes"]
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it has: {', '.join(allowed) or 'none'}")
    return build(num_classes=num_classes, **options)
