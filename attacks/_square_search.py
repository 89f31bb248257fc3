"""What the Square attack begins with and what a query of it changes, by the norm."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

Signs = Callable[[int], Tensor]
"""Draws so many of plus or minus one for each image, (N, count)."""


class Search(Protocol):
    """What the norms do differently; differences from the images are not yet brought back into the ball."""

    numbers: ClassVar[int]
    """How many random numbers a query takes, besides one for each channel."""

    def start(self, images: Tensor, signs: Signs) -> Tensor:
        """Difference to begin with, (N, C, H, W)."""
        ...

    def side(self, share: float, height: int, width: int) -> int:
        """Side of a window that holds a share of the pixels."""
        ...

    def changed(self, images: Tensor, best: Tensor, drawn: Tensor, side: int) -> Tensor:
        """Difference to try next, from the best images so far and the numbers of a query, (N, numbers + C) in [0, 1)."""
        ...


@dataclass(frozen=True)
class Squares:
    """Linf (Alg. 2): begins with vertical stripes; a query sets a random square of each channel to plus or minus eps."""

    eps: float
    numbers: ClassVar[int] = 2

    def start(self, images: Tensor, signs: Signs) -> Tensor:
        channels, _, width = images.shape[1:]
        return (self.eps * signs(channels * width).view(-1, channels, 1, width)).expand_as(images)

    def side(self, share: float, height: int, width: int) -> int:
        return min(max(round(math.sqrt(share * height * width)), 1), height - 1 or 1, width - 1 or 1)

    def changed(self, images: Tensor, best: Tensor, drawn: Tensor, side: int) -> Tensor:
        squares = _signs(drawn[:, 2:], images) * _Window.at(drawn[:, :2], images, side).mask()
        return best + 2 * self.eps * squares - images


def _signs(drawn: Tensor, like: Tensor) -> Tensor:
    """Plus or minus one for each channel, (N, C, 1, 1), from numbers in [0, 1)."""
    return ((drawn < 0.5).to(like) * 2 - 1)[:, :, None, None]


@dataclass(frozen=True)
class _Window:
    """A square in each image: how far each row (N, H) and column (N, W) lies behind its first; inside, 0 to side - 1."""

    rows: Tensor
    columns: Tensor
    side: int

    @classmethod
    def at(cls, drawn: Tensor, images: Tensor, side: int) -> "_Window":
        """Place it by two numbers an image, (N, 2) in [0, 1)."""

        def behind(drawn: Tensor, size: int) -> Tensor:
            return torch.arange(size, device=drawn.device) - (drawn * (size - side + 1)).long().unsqueeze(1)

        return cls(behind(drawn[:, 0], images.shape[2]), behind(drawn[:, 1], images.shape[3]), side)

    def mask(self) -> Tensor:
        """Where it lies, (N, 1, H, W) bool."""
        rows, columns = ((each >= 0) & (each < self.side) for each in (self.rows, self.columns))
        return rows[:, None, :, None] & columns[:, None, None, :]
