"""The cost of a network: parameters, and multiply-accumulate operations for one image."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from models.attention import NoAttentionError, attention_layers
from models.card import ModelCard
from models.classifier import Classifier
from models.registry import create


@dataclass(frozen=True)
class Complexity:
    """The size and cost of a network.

    Attributes:
        parameters: number of learned values.
        macs: multiply-accumulate operations for one image: convolutions, linear layers, attention products and the aggregation of
            neighbourhoods; not norms, activations, pooling, bilinear sampling or additions.
    """

    parameters: int
    macs: int


class _Untracked:
    """In place of torch's tracker of modules, whose hooks would run in the passes of other threads too."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, *_error: object) -> None:
        """Do nothing."""


def complexity(network: nn.Module, input_shape: tuple[int, int, int]) -> Complexity:
    """Count a network's parameters and multiplications from shapes alone; nothing is computed or changed.

    A module with multiplications that torch's counter cannot see counts them in a method `own_macs(x) -> int`.

    Args:
        network: in evaluation mode; takes (N, *input_shape).
        input_shape: (C, H, W) of an image.
    """
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415  # it imports Triton

    own: list[int] = []

    def count(module: Any, inputs: tuple[Any, ...]) -> None:
        own.append(module.own_macs(*inputs))

    hooks = [module.register_forward_pre_hook(count) for module in network.modules() if hasattr(module, "own_macs")]
    shapes = {name: value.to("meta") for name, value in [*network.named_parameters(), *network.named_buffers()]}
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = cast(Any, _Untracked())
    try:
        with counter, torch.no_grad():
            torch.func.functional_call(network, shapes, torch.empty(1, *input_shape, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return Complexity(sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2 + sum(own))


@dataclass(frozen=True)
class Structure:
    """What a card says about its network.

    Attributes:
        cost: its parameters and multiplications.
        attention_layers: paths of the layers whose attention can be shown, in the order of the network.
    """

    cost: Complexity
    attention_layers: tuple[str, ...]


def structure(card: ModelCard) -> Structure:
    """Look at a network that a card describes, without its weights and without memory for them.

    Args:
        card: of any architecture but those of files that bring their own graph.

    Raises:
        TypeError, ValueError, RuntimeError, LookupError: no network can be built as the card says, or it does not take such images.
    """
    with torch.device("meta"):
        network = create(card.architecture, num_classes=len(card.classes), **card.options).eval()
    cost = complexity(network, (3, card.preprocessing.crop, card.preprocessing.crop))
    try:
        layers = attention_layers(Classifier(network, card))
    except NoAttentionError:
        layers = []
    return Structure(cost, tuple(layers))
