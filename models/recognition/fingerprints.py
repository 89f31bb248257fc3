"""Looks up the models of torchvision and timm that have exactly a file's tensors, in a table of hashes that comes with the package.

`python -m models fingerprints` writes the table, `fingerprints.txt`. A line "heads: fc.bias fc.weight" names the tensors whose
first dimension is the number of classes. Each line below it has a hash of the names and shapes of all other tensors, and the models
that have those. A lookup builds no network, and finds timm's models even if timm is not installed.
"""

import hashlib
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from models.recognition.layout import Shape

TABLE = Path(__file__).with_name("fingerprints.txt")

_HEADS = "heads: "
_DIGITS = 12
_MARK = 999_983
"""A number of classes that no other dimension of a tensor has."""


@dataclass(frozen=True)
class Fingerprint:
    """Identifies a model's tensors, whatever its number of classes.

    Attributes:
        heads: names of the tensors whose first dimension is the number of classes.
        digest: hash of the names and shapes of all other tensors, except batch counters.
    """

    heads: tuple[str, ...]
    digest: str


def fingerprint(shapes: Mapping[str, Shape], heads: tuple[str, ...]) -> Fingerprint:
    """Hash the names and shapes of all tensors except the heads and batch counters."""
    lines = sorted(
        f"{name} {'x'.join(map(str, shape))}"
        for name, shape in shapes.items()
        if name not in heads and not name.endswith("num_batches_tracked")
    )
    return Fingerprint(heads, hashlib.sha256("\n".join(lines).encode()).hexdigest()[:_DIGITS])


def same_tensors(shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Find the models of torchvision and timm that have these tensors.

    Returns:
        Number of classes by architecture, such as "timm:resnet50", in the table's order; empty if no model has them.
    """
    found: dict[str, int] = {}
    for heads, models in _table().items():
        sides = {next(iter(shapes.get(head, ())), 0) for head in heads}
        if len(sides) == 1 and (classes := sides.pop()) > 0:
            found |= dict.fromkeys(models.get(fingerprint(shapes, heads).digest, ()), classes)
    return found


@cache
def _table() -> dict[tuple[str, ...], dict[str, list[str]]]:
    table: dict[tuple[str, ...], dict[str, list[str]]] = {}
    models: dict[str, list[str]] = {}
    for line in TABLE.read_text().splitlines():
        if line.startswith(_HEADS):
            models = table[tuple(line.removeprefix(_HEADS).split())] = {}
        else:
            digest, *names = line.split()
            models[digest] = names
    return table


def of_model(layout: Callable[[str, int], Mapping[str, Shape]], architecture: str) -> Fingerprint:
    """Compute the fingerprint of a model by building it.

    Args:
        layout: gives the shapes of an architecture's tensors for a number of classes.
        architecture: such as "timm:resnet50".

    Raises:
        ValueError: the model is not a classifier, or its number of classes is not the first dimension of a tensor.
    """
    shapes = layout(architecture, _MARK)
    heads = tuple(sorted(name for name, shape in shapes.items() if _MARK in shape))
    if not heads or any(shapes[head][0] != _MARK for head in heads):
        raise ValueError(f"{architecture} has no tensor whose first dimension is the number of classes")
    return fingerprint(shapes, heads)


def architectures() -> Iterator[str]:
    """List every classifier of torchvision and timm."""
    torchvision: Any = importlib.import_module("torchvision.models")
    timm: Any = importlib.import_module("timm")
    yield from (f"torchvision:{name}" for name in torchvision.list_models(module=torchvision))
    yield from (f"timm:{name}" for name in timm.list_models())


def write_table(layout: Callable[[str, int], Mapping[str, Shape]], names: Iterable[str]) -> str:
    """Write the table for some architectures, without those that are not classifiers; building all of them takes minutes."""
    table: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for name in names:
        try:
            found = of_model(layout, name)
        except Exception as error:  # anything a library raises for a model that it cannot build here
            sys.stderr.write(f"{name} is left out: {error!r}\n")
            continue
        table.setdefault(found.heads, {}).setdefault(found.digest, []).append(name)
    lines: list[str] = []
    for heads, models in sorted(table.items()):
        lines += [f"{_HEADS}{' '.join(heads)}", *(f"{digest} {' '.join(models[digest])}" for digest in sorted(models))]
    return "\n".join(lines) + "\n"
