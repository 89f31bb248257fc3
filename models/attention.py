"""Attention maps: what the attention layers of a classifier look at in an image."""

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common import unknown_name
from models.classifier import Classifier
from models.readings import Place
from models.registry import Read, families


class NoAttentionError(ValueError):
    """The classifier has no spatial attention; the message names the families that have."""


@dataclass(frozen=True)
class AttentionMap:
    """What one attention layer looks at in N images; cell (i, j) of an H x W map covers that part of the image.

    Attributes:
        layer: path of the module in the network.
        kind: what a map shows, in words.
        maps: (N, M, H, W) in [0, 1], each divided by its maximum; an empty map stays zero.
        scale: (N, M), the maxima.
        points: (N, M, P, 2), where deformable attention sampled its P = H*W keys, as fractions (y, x) of the image; offsets of more
            than two cells can lead outside [0, 1].
        scores: (N, M, P), the softmax scores of these points, which sum to one.
    """

    layer: str
    kind: str
    maps: Tensor
    scale: Tensor
    points: Tensor | None = None
    scores: Tensor | None = None


def attention_layers(classifier: Classifier) -> list[str]:
    """List the paths of the layers that `attention_maps` can show, in the order of the network.

    Raises:
        NoAttentionError: the classifier has no such layer.
    """
    return list(_layers(classifier))


def attention_maps(
    classifier: Classifier, images: Tensor, *, layer: str | None = None, query: Place | None = None
) -> list[AttentionMap]:
    """Read the maps of a classifier's attention layers, in one forward pass in evaluation mode.

    Each family decides what its maps show: a map's `kind` describes it in words, the reader in `Family.attention` in detail.

    Args:
        classifier: on any device; the classifier and the modes of its modules do not change.
        images: (N, 3, H, W) in [0, 1].
        layer: one of `attention_layers(classifier)`; None for all.
        query: the place whose attention to show; None for the mean over all places.

    Returns:
        One entry per layer, in the order in which the layers ran.

    Raises:
        NoAttentionError: the classifier has no spatial attention.
        UnknownNameError: there is no layer of that name.
        ValueError: the query lies outside the image.
    """
    layers = _layers(classifier)
    if layer is not None and layer not in layers:
        raise unknown_name("layer", layer, layers)
    if query is not None and not all(0 <= each <= 1 for each in query):
        raise ValueError(f"query must be (y, x), each a fraction from 0 to 1, got {query}")
    found: list[AttentionMap] = []
    with _evaluating(classifier), torch.no_grad(), ExitStack() as hooks:
        for name in layers if layer is None else [layer]:
            module, read = layers[name]
            hooks.enter_context(module.register_forward_hook(_keep_in(found, name, read, query)))
        classifier(images)
    return found


def _layers(classifier: Classifier) -> dict[str, tuple[nn.Module, Read]]:
    readers = {kind: read for family in families() for kind, read in family.attention.items()}
    modules = classifier.network.named_modules()
    found = {path: (module, readers[type(module)]) for path, module in modules if type(module) in readers}
    if not found:
        raise NoAttentionError(_why_none(classifier))
    return found


def _why_none(classifier: Classifier) -> str:
    unshown = {kind: what for family in families() for kind, what in family.unshown.items()}
    kinds = {type(module) for module in classifier.network.modules()}
    has = next((what for kind, what in unshown.items() if kind in kinds), "no attention")
    *most, last = (family.name for family in families() if family.attention)
    return (
        f"{classifier.card.architecture} has {has}, so there is nothing to show on an image; {', '.join(most)} and {last} have "
        "spatial attention"
    )


@contextmanager
def _evaluating(classifier: nn.Module) -> Generator[None]:
    training = [module for module in classifier.modules() if module.training]
    classifier.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _keep_in(
    found: list[AttentionMap], layer: str, read: Read, query: Place | None
) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        reading = read(module, inputs[0], output, query)
        maps = reading.maps.float()
        scale = maps.amax((2, 3))
        scaled = torch.where(scale[..., None, None] == 0, maps, maps / scale[..., None, None])
        found.append(AttentionMap(layer, reading.kind, scaled, scale, reading.points, reading.scores))

    return hook
