"""Architectures by name, and the families that they belong to."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from common import Registry
from models.readings import Place, Reading
from models.recognition.layout import Layout
from models.recognition.proposals import Candidate, Options


@dataclass(frozen=True)
class ModelSpec:
    """One architecture.

    Attributes:
        name: the name that `create` accepts.
        build: builds the bare network from `num_classes` and the architecture's own options.
        input_shape: (C, H, W) that the architecture was published for.
        paper: where it is described.
        published: top-1 and, if given, top-5 accuracy on ImageNet as reported in its paper, percent.
    """

    name: str
    build: Callable[..., nn.Module]
    input_shape: tuple[int, int, int]
    paper: str
    published: tuple[float, ...] = ()


FindSpec = Callable[[str], ModelSpec]
"""Looks up an architecture of another library by its name there; raises UnknownNameError if there is none."""

Propose = Callable[[Layout], Iterator[Candidate]]
"""Proposes architectures for a checkpoint's tensors; `models.recognition.layout` explains how to reject those of other families."""

Rename = Callable[[Iterable[str]], Mapping[str, str]]
"""Maps the tensor names of other code for the family to the names here; empty if the names are not of that code."""

Read = Callable[[Any, Tensor, Tensor, Place | None], Reading]
"""Reads the attention of a layer from the layer, its input, its output, and the query."""

Fold = Callable[[Any, torch.dtype], nn.Module | None]
"""Copies a network in evaluation mode, with products in a given type; None if it should be folded like any other network.

The copy takes normalised images and returns logits in float32.
"""


@dataclass(frozen=True, kw_only=True)
class Family:
    """All that is known about a family of architectures; nothing else in the package names one.

    Attributes:
        name: as messages write it, such as "SAN".
        architectures: those that `create` builds.
        propose: which architectures a checkpoint's tensors may belong to.
        rename: for checkpoints of other code.
        attention: how to read each class of layers with spatial attention.
        unshown: classes of layers whose attention cannot be drawn on an image, each with a description.
        fold: how to copy each class of networks that has a faster form of its own.
    """

    name: str
    architectures: tuple[ModelSpec, ...]
    propose: Propose | None = None
    rename: Rename | None = None
    attention: Mapping[type[nn.Module], Read] = field(default_factory=dict[type[nn.Module], Read])
    unshown: Mapping[type[nn.Module], str] = field(default_factory=dict[type[nn.Module], str])
    fold: Mapping[type[nn.Module], Fold] = field(default_factory=dict[type[nn.Module], Fold])


_FAMILIES = Registry[Family]("family")
_REGISTRY = Registry[ModelSpec]("architecture")
_OTHERS: dict[str, FindSpec] = {}
"""How to find architectures of other libraries, by the prefix before the colon of their names."""


def register_family(family: Family) -> None:
    """Register a family and its architectures.

    Raises:
        ValueError: a name is taken.
    """
    _FAMILIES.add(family.name, family)
    for spec in family.architectures:
        register(spec)


def families() -> list[Family]:
    """List the families, in the order of registration."""
    return [_FAMILIES[name] for name in _FAMILIES.names()]


def register(spec: ModelSpec) -> None:
    """Register an architecture under its name.

    Raises:
        ValueError: the name is taken.
    """
    _REGISTRY.add(spec.name, spec)


def register_others(prefix: str, find: FindSpec) -> None:
    """Register architectures of another library as `prefix:name`, or one kind of file as `prefix`.

    Args:
        prefix: the part before the colon.
        find: looks up the part after it; raises UnknownNameError.

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
        name: one of `names()`, or an architecture of another library, such as `torchvision:densenet121`.
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


def defaults(architecture: str) -> Options:
    """Default values of an architecture's options."""
    parameters = inspect.signature(spec(architecture).build).parameters.values()
    return {each.name: _plain(each.default) for each in parameters if each.default is not inspect.Parameter.empty}


def without_defaults(architecture: str, options: Mapping[str, object]) -> Options:
    """Remove options that equal the architecture's defaults."""
    own = defaults(architecture)
    return {name: value for name, value in options.items() if name not in own or own[name] != _plain(value)}


def fewest_options(architectures: Iterable[str], options: Mapping[str, object]) -> tuple[str, Options]:
    """Choose the architecture that needs the fewest options (of several, the first), and return it with them."""
    described = [(name, without_defaults(name, options)) for name in architectures]
    return min(described, key=lambda each: len(each[1]))


def _plain(value: object) -> object:
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value  # pyright: ignore[reportUnknownVariableType]
