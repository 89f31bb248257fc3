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
        published: top-1 and, where it is given, top-5 accuracy on ImageNet that its paper reports, percent.
    """

    name: str
    build: Callable[..., nn.Module]
    input_shape: tuple[int, int, int]
    paper: str
    published: tuple[float, ...] = ()


_REGISTRY = Registry[ModelSpec]("architecture")
_OTHERS: dict[str, Callable[[str], ModelSpec]] = {}
"""Architectures that are not ours, by what stands before the colon of their names."""


def register(spec: ModelSpec) -> None:
    """Make an architecture known under its name.

    Raises:
        ValueError: the name is taken.
    """
    _REGISTRY.add(spec.name, spec)


def register_others(prefix: str, find: Callable[[str], ModelSpec]) -> None:
    """Make architectures of another library known as `prefix:name`, or one kind of file as `prefix`.

    Args:
        prefix: what stands before the colon.
        find: looks up what stands behind it; raises UnknownNameError.

    Raises:
        ValueError: the prefix is taken.
    """
    if prefix in _OTHERS:
        raise ValueError(f"architectures {prefix!r} are registered twice")
    _OTHERS[prefix] = find


def names() -> list[str]:
    """List the names of all architectures of this package."""
    return _REGISTRY.names()


def spec(name: str) -> ModelSpec:
    """Look up an architecture.

    Raises:
        UnknownNameError: there is none of that name.
    """
    prefix, _, rest = name.partition(":")
    return _OTHERS[prefix](rest) if prefix in _OTHERS else _REGISTRY[name]


def create(name: str, *, num_classes: int = 1000, **options: object) -> nn.Module:
    """Build a network with fresh weights; it takes normalised images (N, 3, H, W) and returns logits (N, num_classes).

    Args:
        name: an architecture, one of `names()`, or of another library, such as `torchvision:densenet121`.
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
