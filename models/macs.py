"""The cost of a network: parameters, and multiply-accumulate operations for one image."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


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
    try:
        with counter, torch.no_grad():
            torch.func.functional_call(network, shapes, torch.empty(1, *input_shape, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return Complexity(sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2 + sum(own))
