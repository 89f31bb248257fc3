"""Files generated from the registries.

The page of all architectures: python -m models > docs/models.md
The table of torchvision's and timm's tensors: python -m models fingerprints > models/recognition/fingerprints.txt
"""

import inspect
import sys
from collections.abc import Iterable

import torch

from models import complexity, create, find_checkpoints, names, spec
from models.recognition.fingerprints import architectures, write_table
from models.recognition.recognise import layout

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Largest difference between the logits and those in float64, as a fraction of their norm, by the type everything is rounded to."""

_INTRODUCTION = """# Architectures

This page is made from the registry: `python -m models > docs/models.md`.

`models.create(name, num_classes=..., **options)` builds a network with fresh weights. Parameters and multiply-accumulate operations
(MACs: convolutions, linear layers, attention products, aggregation; one image of the input size) are counted on the network itself,
with 1000 classes, 10 for images of 32 x 32. ImageNet accuracies are those that the papers report for their own training, in
percent; ours were not trained on ImageNet."""

_NUMERICS = """## Numerics

Logits against the same network in float64, weights and images rounded to the type, as a fraction of the norm of the logits. Every
small architecture is kept within these bounds by the tests; in float64 whole networks agree to 1e-8 with those of the authors' code
where it could be run."""

_COMPILE = """`torch.compile(network, fullgraph=True)` captures every family whole: the small architectures give the same logits and
gradients compiled."""
_PLAIN = (str, int, float, tuple, list, type(None))
"""Types of options that a card can hold."""


def page(counted: Iterable[str]) -> str:
    """Write the page of all architectures as Markdown; those that are `counted` have a row in its first table."""
    architectures = _table(
        ("architecture", "input", "parameters", "MACs", "ImageNet top-1 / top-5", "described in"), map(_row, counted)
    )
    options = _table(("architecture", "options and defaults"), ((f"`{name}`", _options(name)) for name in names()))
    trained = _table(
        ("checkpoint", "training", "clean accuracy", "on"),
        ((f"`{name}`", *_trained(name)) for name in sorted(find_checkpoints())),
    )
    bounds = _table(
        ("type", "largest difference"), ((str(t).removeprefix("torch."), f"{x:g}") for t, x in TOLERANCES.items())
    )
    sections = (
        _INTRODUCTION,
        architectures,
        "## Options",
        options,
        "## Trained, and measured here",
        trained,
        _NUMERICS,
        bounds,
        _COMPILE,
    )
    return "\n\n".join(sections) + "\n"


def table(names: Iterable[str]) -> str:
    """Write the table of fingerprints of some models of torchvision and timm; all of them take minutes."""
    return write_table(lambda name, classes: layout(name, {}, classes), names)


def _row(name: str) -> tuple[str, ...]:
    architecture = spec(name)
    side = architecture.input_shape[1]
    with torch.device("meta"):
        network = create(name, num_classes=10 if side == 32 else 1000).eval()
    cost = complexity(network, architecture.input_shape)
    macs = f"{cost.macs / 1e9:.2f} G" if cost.macs >= 1e9 else f"{cost.macs / 1e6:.1f} M"
    published = " / ".join(f"{value:.1f}" for value in architecture.published)
    return f"`{name}`", f"{side} x {side}", f"{cost.parameters:,}", macs, published, architecture.paper


def _options(name: str) -> str:
    parameters = [p for p in inspect.signature(spec(name).build).parameters.values() if p.name != "num_classes"]
    shown = [f"`{p.name}={p.default!r}`" for p in parameters if isinstance(p.default, _PLAIN)]
    return ", ".join(shown) or "none"


def _trained(name: str) -> tuple[str, str, str]:
    card = find_checkpoints()[name].card()
    accuracy = "" if card.clean_accuracy is None else f"{card.clean_accuracy:.4f}"
    return card.training, accuracy, card.clean_accuracy_on


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (header, ("---",) * len(header), *rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    sys.stdout.write(table(architectures()) if sys.argv[1:] == ["fingerprints"] else page(names()))
