"""Random draws that belong to (seed, image, stream, element): the same on every device, in any batch."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_GOLDEN, _PER_INDEX, _PER_STREAM = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03, 0xABC98388FB8FAC03
"""Odd numbers that counters of elements, images and streams are multiplied by."""

_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
"""Shifts and factors of SplitMix64 (Steele, Lea, Flood 2014); a shift by 31 ends it."""

_BLOCK = 15 * 2**10
"""Words that are computed at once on a CPU: they stay in its cache, and PyTorch does not share them out among threads."""


@dataclass(frozen=True, eq=False)
class Draws:
    """A source of random numbers for N images: SplitMix64 of a key of the image and of the element's number.

    Nothing is used up: drawing twice gives the same numbers, so whoever draws for several purposes gives each its own `stream`.

    Attributes:
        keys: one for each image, (N,) int64.
    """

    keys: Tensor

    @classmethod
    def of(cls, seed: int, indices: Sequence[int], *, device: torch.device | str = "cpu") -> "Draws":
        """Make the draws of images.

        Args:
            seed: from 0 to 2**63 - 1.
            indices: of the images in their data set; equal ones draw the same.
            device: where the images are; draws for images elsewhere copy their keys there.

        Raises:
            ValueError: the seed is out of range.
        """
        if not 0 <= seed < 2**63:
            raise ValueError(f"a seed must be from 0 to 2**63 - 1, got {seed}")
        base = _mixed(torch.tensor(seed) + _signed(_GOLDEN))
        numbers = torch.tensor([*indices], dtype=torch.int64) + 1
        return cls(_mixed(base + numbers * _signed(_PER_INDEX)).to(device))

    def stream(self, number: int) -> "Draws":
        """Derive draws that are independent of these and of every other stream's; numbers start at 0."""
        return Draws(_mixed(self.keys + _signed((number + 1) * _PER_STREAM)))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, chosen: Tensor) -> "Draws":
        """Keep the images that a mask (N,) or indices (M,) choose."""
        return Draws(self.keys[chosen])

    def uniform(self, like: Tensor) -> Tensor:
        """Draw multiples of 2**-24 from [0, 1) in shape, type and place of a tensor (N, ...)."""
        return self._drawn(like, _uniform)

    def normal(self, like: Tensor) -> Tensor:
        """Draw from the standard normal distribution in shape, type and place of a tensor (N, ...).

        By the inverse of its distribution function in float64, of 32 bits, rounded to float32: two devices may differ in the last
        bit, at about one element in 10**8. The largest is 6.3.
        """
        return self._drawn(like, _normal)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Draw from 0 to `high` - 1, (N, *shape) int64, where the keys are.

        Args:
            high: from 1 to 2**31; the odds of a value are within 2**-32 of 1 / `high`.
            shape: of one image's numbers; without it, one number.
        """

        def scaled(bits: Tensor, into: Tensor) -> None:
            into.copy_(bits).bitwise_and_(0xFFFFFFFF).mul_(high).bitwise_right_shift_(32)

        return _draw(self.keys, math.prod(shape), scaled, torch.int64).view(-1, *shape)

    def _drawn(self, like: Tensor, finish: "_Finish") -> Tensor:
        if len(like) != len(self):
            raise ValueError(f"draws of {len(self)} images cannot fill a tensor of {len(like)}")
        drawn = _draw(self.keys.to(like.device), like[:1].numel(), finish, torch.float32)
        return drawn.reshape(like.shape).to(like.dtype)


_Finish = Callable[[Tensor, Tensor], object]
"""Makes numbers of as many times 32 bits, both (n, m): takes the bits, int32, which it may change, and the place of the numbers."""


_HALF = torch.tensor(0.5)


def _uniform(bits: Tensor, into: Tensor) -> None:
    into.copy_(bits.bitwise_and_(-256))  # what float32 holds; signed, so around 0
    torch.add(_HALF, into, alpha=2**-32, out=into)


def _normal(bits: Tensor, into: Tensor) -> None:
    into.copy_(torch.special.ndtri(bits.to(torch.float64).mul_(2**-32).add_(0.5 + 2**-33)))


def _draw(keys: Tensor, count: int, finish: _Finish, dtype: torch.dtype) -> Tensor:
    """Numbers of each key (N,), (N, count): a word of 64 bits makes two, the first of its lower half."""
    words = (count + 1) // 2
    drawn = torch.empty(len(keys), 2 * words, dtype=dtype, device=keys.device)
    if keys.device.type == "cpu":
        for rows, columns, block in blocks_of_words(keys, words):
            finish(block.view(torch.int32), drawn[rows, 2 * columns.start : 2 * columns.stop])
    else:
        finish(random_words(keys, words).view(torch.int32), drawn)
    return drawn[:, :count]


def random_words(keys: Tensor, count: int) -> Tensor:
    """The first `count` numbers of SplitMix64 that begin at each key (N,), (N, count) int64: on any device."""
    steps = torch.arange(1, count + 1, device=keys.device) * _signed(_GOLDEN)
    return _mixed(keys[:, None] + steps)


def blocks_of_words(keys: Tensor, count: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """What `random_words` returns in parts, with their rows and columns: several times faster on a CPU.

    Each part holds until the next one is asked for. They fit a core's cache, are mixed in place, and numpy's shifts bring in zeros.
    """
    width = max(min(count, _BLOCK), 1)
    words, spare = np.empty((2, max(_BLOCK // width, 1), width), np.uint64)
    starts = keys.numpy().view(np.uint64)[:, None]
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    for row, column in itertools.product(range(0, len(keys), len(words)), range(0, count, width)):
        rows, columns = slice(row, min(row + len(words), len(keys))), slice(column, min(column + width, count))
        inside = slice(rows.stop - row), slice(columns.stop - column)
        block = np.add(starts[rows], steps[columns], out=words[inside])
        _mix_in_place(block, spare[inside])
        yield rows, columns, torch.from_numpy(block.view(np.int64))


def _mix_in_place(words: npt.NDArray[np.uint64], spare: npt.NDArray[np.uint64]) -> None:
    for shift, factor in _ROUNDS:
        words ^= np.right_shift(words, np.uint64(shift), out=spare)
        words *= np.uint64(factor)
    words ^= np.right_shift(words, np.uint64(31), out=spare)


def _mixed(words: Tensor) -> Tensor:
    """SplitMix64's finaliser of int64, whose products wrap around as those of uint64 do."""
    for shift, factor in _ROUNDS:
        words = (words ^ _shifted(words, shift)) * _signed(factor)
    return words ^ _shifted(words, 31)


def _shifted(words: Tensor, by: int) -> Tensor:
    """To the right, with zeros in place of the sign that int64 brings in."""
    return (words >> by) & ((1 << (64 - by)) - 1)


def _signed(word: int) -> int:
    """The int64 of the same 64 bits."""
    return (word + 2**63) % 2**64 - 2**63
