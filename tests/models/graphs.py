"""Graphs that harm the process they run in: always, or once they see a picture that is brighter than random ones."""

from pathlib import Path

import torch
from torch import Tensor, nn


class Loops(nn.Module):
    """Does not end while the mean is above a bound."""

    def __init__(self, above: float = 0.9) -> None:
        super().__init__()
        self.above = above

    def forward(self, images: Tensor) -> Tensor:
        while bool(images.mean() > self.above):
            images = images * 1.001 + 1.0
        return images.mean((2, 3))


class Crashes(nn.Module):
    """Writes far outside of its memory if the mean is above a bound."""

    def __init__(self, above: float = 0.9) -> None:
        super().__init__()
        self.above = above

    def forward(self, images: Tensor) -> Tensor:
        if bool(images.mean() > self.above):
            far = (images[:1, :1, :2, :2] > -99.0).long() * 2**40  # no constant, which would be computed beforehand
            small, large = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 4, 4)
            images = (
                images
                + torch.ops.aten.max_pool2d_with_indices_backward(
                    small, large, [2, 2], [2, 2], [0, 0], [1, 1], False, far
                ).sum()
            )
        return images.mean((2, 3))


def save(network: nn.Module, path: Path) -> Path:
    torch.jit.save(torch.jit.script(network), path)
    return path
