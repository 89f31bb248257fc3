"""The start of the Square attack and the change of each query, in Linf and in L2."""

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.draws import Draws
from attacks.norms import steepest
from attacks.task import Norm


class Search(Protocol):
    """The part of the attack that depends on the norm; the differences it returns are not yet projected onto the ball."""

    numbers: ClassVar[int]
    """Number of random numbers that a query needs, besides one per channel."""

    def start(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the first difference, (N, C, H, W)."""
        ...

    def side(self, share: float, height: int, width: int) -> int:
        """Return the side of a window that contains a share of the pixels."""
        ...

    def changed(self, images: Tensor, best: Tensor, drawn: Tensor, side: int) -> Tensor:
        """Return the next difference to try, from the best images so far and a query's numbers (N, numbers + C) in [0, 1)."""
        ...


@dataclass(frozen=True)
class Squares:
    """Linf (Alg. 2): begins with vertical stripes; a query sets a random square of each channel to plus or minus eps."""

    eps: float
    numbers: ClassVar[int] = 2
    to_edge: bool = True

    def start(self, images: Tensor, draws: Draws) -> Tensor:
        """See `Search.start`."""
        return (self.eps * _signs(draws.uniform(images[:, :, :1]), images)).expand_as(images)

    def side(self, share: float, height: int, width: int) -> int:
        """See `Search.side`."""
        return min(max(round(math.sqrt(share * height * width)), 1), height - 1 or 1, width - 1 or 1)

    def changed(self, images: Tensor, best: Tensor, drawn: Tensor, side: int) -> Tensor:
        """See `Search.changed`."""
        squares = (
            _signs(drawn[:, 2:, None, None], images)
            * _Window.at(drawn[:, :2], images, side, to_edge=self.to_edge).mask()
        )
        return best + 2 * self.eps * squares - images


@dataclass(frozen=True)
class Pyramids:
    """L2 (Sec. 3.3, Alg. 3): begins with tiles of two pyramids, one up and one down; a query concentrates length in a window.

    A query chooses two windows. It adds two pyramids to the difference in the first, rescales it to the length that both windows
    had plus the unused part of eps, and sets the second to zero. Length is computed per channel, as in the paper (AutoAttack sums
    it over the channels).

    Deviations from the authors' code: windows reach the last row and column if `to_edge`, tiles are centred and at least one pixel
    wide, and windows are no larger than the image.
    """

    eps: float
    numbers: ClassVar[int] = 5
    to_edge: bool = True

    def start(self, images: Tensor, draws: Draws) -> Tensor:
        """See `Search.start`."""
        height, width = images.shape[-2:]
        side = max(min(height, width) // 5, 1)
        down, across = height // side, width // side
        like = images[:, :, :down, :across]
        tile_signs = _signs(draws.stream(0).uniform(like), images)
        turned = draws.stream(1).uniform(like[:, :1]) < 0.5
        pyramids = _two_pyramids(side).to(images)

        def over_tiles(each: Tensor) -> Tensor:
            return each.repeat_interleave(side, 2).repeat_interleave(side, 3)

        tiles = torch.where(over_tiles(turned), pyramids.T.repeat(down, across), pyramids.repeat(down, across))
        left, top = (width - across * side) // 2, (height - down * side) // 2
        margins = (left, width - across * side - left, top, height - down * side - top)
        return self.eps * steepest(F.pad(over_tiles(tile_signs) * tiles, margins), Norm.L2)

    def side(self, share: float, height: int, width: int) -> int:
        """Odd, at least 3 where there is room."""
        side, room = max(round(math.sqrt(share * height * width)), 3), min(height, width)
        return min(side + 1 - side % 2, room - 1 + room % 2)

    def changed(self, images: Tensor, best: Tensor, drawn: Tensor, side: int) -> Tensor:
        """See `Search.changed`."""
        first, second = (_Window.at(drawn[:, at : at + 2], images, side, to_edge=self.to_edge) for at in (0, 2))
        difference, both = best - images, first.mask() | second.mask()
        unused = (self.eps**2 - difference.square().sum((1, 2, 3), keepdim=True)).clamp(min=0)
        held = (difference * both).square().sum((2, 3), keepdim=True)
        pyramids = _signs(drawn[:, 5:, None, None], images) * first.filled(
            _two_pyramids(side).to(images), drawn[:, 4] < 0.5
        )
        mixed = pyramids + _of_length_one(difference * first.mask(), floor=1e-12)
        # Where old and new cancel, only rounding is left, which must not be scaled up.
        gathered = _of_length_one(mixed, floor=1e-3) * (held + unused / images.shape[1]).sqrt()
        return self.eps * steepest(torch.where(both, gathered, difference), Norm.L2)


def _of_length_one(differences: Tensor, *, floor: float) -> Tensor:
    """Each channel (N, C, H, W) divided by its length, or by the floor if that is more."""
    return F.normalize(differences.flatten(2), dim=2, eps=floor).view_as(differences)


@cache
def _two_pyramids(side: int) -> Tensor:
    """Upper half up, lower half down, of length 1: eta of the paper, (side, side) in float64."""
    upper = side // 2
    pattern = torch.cat([_pyramid(upper, side), -_pyramid(side - upper, side)])
    return pattern / pattern.norm()


def _pyramid(height: int, width: int) -> Tensor:
    """Rings around the middle, of length 1 (eta^(h1, h2) of the paper, Sec. 3.3).

    The height of the ring at distance r is the sum of 1 / k^2 from k = r + 1 to the k of the outermost ring.
    """
    rows, columns = (torch.arange(size) - size // 2 for size in (height, width))
    ring = torch.maximum(rows.abs()[:, None], columns.abs()[None, :])
    steps = 1 / torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64).square()
    heights = steps.flip(0).cumsum(0).flip(0)
    return F.normalize(heights[ring].flatten(), dim=0).view(height, width)


def _signs(drawn: Tensor, like: Tensor) -> Tensor:
    """Plus or minus one from numbers in [0, 1)."""
    return (drawn < 0.5).to(like) * 2 - 1


@dataclass(frozen=True)
class _Window:
    """A square in each image: the distance of each row (N, H) and column (N, W) from its first one; inside, 0 to side - 1."""

    rows: Tensor
    columns: Tensor
    side: int

    @classmethod
    def at(cls, drawn: Tensor, images: Tensor, side: int, *, to_edge: bool = True) -> "_Window":
        """Choose its corner by two numbers per image, (N, 2) in [0, 1); without `to_edge` none reaches the last row or column."""

        def behind(drawn: Tensor, size: int) -> Tensor:
            return torch.arange(size, device=drawn.device) - (drawn * (size - side + to_edge)).long().unsqueeze(1)

        return cls(behind(drawn[:, 0], images.shape[2]), behind(drawn[:, 1], images.shape[3]), side)

    def mask(self) -> Tensor:
        """Where it lies, (N, 1, H, W) bool."""
        rows, columns = ((each >= 0) & (each < self.side) for each in (self.rows, self.columns))
        return rows[:, None, :, None] & columns[:, None, None, :]

    def filled(self, pattern: Tensor, turned: Tensor) -> Tensor:
        """The pattern (side, side) within, transposed where `turned` (N,), and zero outside: (N, 1, H, W)."""
        rows, columns = (each.clamp(0, self.side - 1) for each in (self.rows, self.columns))
        both = torch.stack([pattern, pattern.T])
        return both[turned.long()[:, None, None], rows[:, :, None], columns[:, None, :]].unsqueeze(1) * self.mask()
