"""Random numbers that depend on seed, image, stream and element alone: equal on every device and in any batch."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_GOLDEN, _PER_INDEX, _PER_STREAM = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03, 0xABC98388FB8FAC03
"""Odd factors of the counters of elements, images and streams."""

_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
"""Shifts and factors of SplitMix64 (Steele, Lea, Flood 2014); a shift by 31 ends it."""

_BLOCK = 15 * 2**10
"""Words that are computed at once on a CPU: they fit its cache, and are too few for PyTorch to use several threads."""


@dataclass(frozen=True, eq=False)
class Draws:
    """A source of random numbers for N images: SplitMix64 of the image's key and the element's number.

    Drawing twice gives the same numbers: use a `stream` for each purpose.

    Attributes:
        keys: (N,) int64, one per image.
    """

    keys: Tensor

    @classmethod
    def of(cls, seed: int, indices: Sequence[int], *, device: torch.device | str = "cpu") -> "Draws":
        """Create the draws of some images.

        Args:
            seed: from 0 to 2**63 - 1.
            indices: of the images in their data set; equal indices draw equal numbers.
            device: device of the images; draws for images on another device copy their keys there.

        Raises:
            ValueError: the seed is out of range.
        """
        if not 0 <= seed < 2**63:
            raise ValueError(f"a seed must be from 0 to 2**63 - 1, got {seed}")
        base = _mixed(torch.tensor(seed) + _signed(_GOLDEN))
        numbers = torch.tensor([*indices], dtype=torch.int64) + 1
        return cls(_mixed(base + numbers * _signed(_PER_INDEX)).to(device))

    def stream(self, number: int) -> "Draws":
        """Derive draws that are independent of these and of every other stream; stream numbers start at 0."""
        return Draws(_mixed(self.keys + _signed((number + 1) * _PER_STREAM)))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, chosen: Tensor) -> "Draws":
        """Return the draws of the images that a mask (N,) or indices (M,) select."""
        return Draws(self.keys[chosen])

    def uniform(self, like: Tensor) -> Tensor:
        """Draw multiples of 2**-24 from [0, 1), with the shape, type and device of a tensor (N, ...)."""
        return self._drawn(like, _uniform)

    def normal(self, like: Tensor) -> Tensor:
        """Draw from the standard normal distribution, with the shape, type and device of a tensor (N, ...).

        The inverse of its distribution function is computed in float64 from 32 bits and rounded to float32: two devices may differ
        in the last bit of about one element in 10**8. The largest value is 6.3.
        """
        return self._drawn(like, _normal)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Draw integers from 0 to `high` - 1, (N, *shape) int64, on the device of the keys.

        Args:
            high: from 1 to 2**31; the probability of each value is within 2**-32 of 1 / `high`.
            shape: of one image's numbers; by default, one number.
        """

        def scaled(bits: Tensor, into: Tensor) -> None:
            into.copy_(bits).bitwise_and_(0xFFFFFFFF).mul_(high).bitwise_right_shift_(32)

        return _draw(self.keys, math.prod(shape), scaled, torch.int64).view(-1, *shape)

    def _drawn(self, like: Tensor, finish: "_Finish") -> Tensor:
        if len(like) != len(self):
            raise ValueError(f"draws of {len(self)} images cannot fill a tensor of {len(like)} images")
        drawn = _draw(self.keys.to(like.device), like[:1].numel(), finish, torch.float32)
        return drawn.reshape(like.shape).to(like.dtype)


_Finish = Callable[[Tensor, Tensor], object]
"""Turns bits (n, m) int32, which it may overwrite, into numbers, which it writes to a second tensor (n, m)."""


_HALF = torch.tensor(0.5)


def _uniform(bits: Tensor, into: Tensor) -> None:
    into.copy_(bits.bitwise_and_(-256))  # what float32 holds; signed, so around 0
    torch.add(_HALF, into, alpha=2**-32, out=into)


def _normal(bits: Tensor, into: Tensor) -> None:
    into.copy_(torch.special.ndtri(bits.to(torch.float64).mul_(2**-32).add_(0.5 + 2**-33)))


def _draw(keys: Tensor, count: int, finish: _Finish, dtype: torch.dtype) -> Tensor:
    """Numbers of each key (N,), (N, count): a word of 64 bits gives two, the first from its lower half."""
    words = (count + 1) // 2
    drawn = torch.empty(len(keys), 2 * words, dtype=dtype, device=keys.device)
    if keys.device.type == "cpu":
        for rows, columns, block in blocks_of_words(keys, words):
            finish(block.view(torch.int32), drawn[rows, 2 * columns.start : 2 * columns.stop])
    else:
        finish(random_words(keys, words).view(torch.int32), drawn)
    return drawn[:, :count]


def random_words(keys: Tensor, count: int) -> Tensor:
    """Compute the first `count` words of SplitMix64 after each key (N,), (N, count) int64, on any device."""
    steps = torch.arange(1, count + 1, device=keys.device) * _signed(_GOLDEN)
    return _mixed(keys[:, None] + steps)


def blocks_of_words(keys: Tensor, count: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield the result of `random_words` in parts, each with its rows and columns; several times faster on a CPU.

    The next part overwrites the one before. Parts fit a core's cache and are mixed in place, and numpy's shifts fill with zeros.
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
    """SplitMix64's finaliser on int64, whose products wrap around like those of uint64."""
    for shift, factor in _ROUNDS:
        words = (words ^ _shifted(words, shift)) * _signed(factor)
    return words ^ _shifted(words, 31)


def _shifted(words: Tensor, by: int) -> Tensor:
    """Shift to the right and fill with zeros, where int64 would repeat the sign."""
    return (words >> by) & ((1 << (64 - by)) - 1)


def _signed(word: int) -> int:
    """The int64 with the same 64 bits."""
    return (word + 2**63) % 2**64 - 2**63
