"""Pictures as a preprocessing makes them: each is decoded once, by threads, ahead of the batch that needs it."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import models
from common.cores import cores
from evaluation.data.pixel_cache import PixelFile

if TYPE_CHECKING:
    from evaluation.data.datasets import ImageFolder

BLOCK_BYTES = 256 * 2**20
"""Most that the pixels of one block take in memory: 1,783 pictures at 224 x 224."""


class Pixels:
    """The pictures of a data set as one preprocessing makes them.

    Args:
        pictures: the data set.
        preprocessing: what makes pixels of them.

    Attributes:
        side: of the pixels, which are square.
        per_block: pictures that are read into memory together.
    """

    def __init__(self, pictures: "ImageFolder", preprocessing: models.Preprocessing) -> None:
        self.side = preprocessing.crop
        self.per_block = max(1, BLOCK_BYTES // (3 * self.side**2))
        self._pictures, self._preprocessing = pictures, preprocessing
        self._threads = ThreadPoolExecutor(cores(), thread_name_prefix="decode")
        self._temporary: PixelFile | None = None
        self._begun: Block | None = None

    def open(self) -> PixelFile:
        """Open the file in which they are stored."""
        cache = self._pictures.pixel_cache
        if cache.folder is not None:
            return cache.open(self._pictures.sha256, self._preprocessing)
        if self._temporary is None:
            self._temporary = cache.open("", self._preprocessing)
        return self._temporary

    def keep(self, file: PixelFile, index: int, picture: Image.Image) -> None:
        """Store a picture that was decoded.

        Raises:
            PictureError: its mode cannot be used.
        """
        if file.writable:
            file.write(index, self._preprocessing.pixels(picture))

    def load(self, file: PixelFile, index: int, into: NDArray[np.uint8]) -> Future[None]:
        """Let a thread read a picture's pixels from the file, or decode and store them."""
        return self._threads.submit(self._load, file, index, into)

    def _load(self, file: PixelFile, index: int, into: NDArray[np.uint8]) -> None:
        if not file.read(index, into):
            into[...] = self._preprocessing.pixels(self._pictures.picture(index))
            file.write(index, into)

    def block(self, indices: tuple[int, ...], *, pinned: bool) -> "Block":
        """Take the block that was begun, if it is the one, or make one."""
        begun, self._begun = self._begun, None
        return begun if begun is not None and begun.indices == indices else Block(self, indices, pinned=pinned)

    def begin(self, indices: tuple[int, ...], current: "Block", *, pinned: bool) -> None:
        """Begin to fill the block after the current one, unless it has begun."""
        begun = self._begun  # another shard may take it meanwhile
        if begun is None or begun.indices != indices:
            self._begun = begun = current if current.indices == indices else Block(self, indices, pinned=pinned)
            self._threads.submit(begun.start, range(len(indices)))  # a hundred submissions take 2 ms


class Block:
    """Pixels of some pictures in memory, in their order.

    Args:
        pixels: where they come from.
        indices: of the pictures.
        pinned: whether a GPU copies them while it computes.
    """

    def __init__(self, pixels: Pixels, indices: tuple[int, ...], *, pinned: bool) -> None:
        self.indices = indices
        self._source = pixels
        self._pixels = torch.empty((len(indices), 3, pixels.side, pixels.side), dtype=torch.uint8, pin_memory=pinned)
        self._filled: dict[int, Future[None]] = {}
        self._lock = Lock()

    def start(self, positions: Iterable[int]) -> None:
        """Let the pixels at some positions be filled in."""
        with self._lock:
            if new := [position for position in positions if position not in self._filled]:
                file, pixels = self._source.open(), self._pixels.numpy()
                self._filled |= {
                    position: self._source.load(file, self.indices[position], pixels[position]) for position in new
                }

    def take(self, positions: Sequence[int]) -> Tensor:
        """Wait for the pixels (N, 3, side, side) at some positions; what follows the last is filled in meanwhile.

        Raises:
            DatasetError: a picture cannot be decoded.
        """
        self.start([*positions, *range(positions[-1] + 1, len(self.indices))])
        for position in positions:
            self._filled[position].result()
        first, last = positions[0], positions[-1]
        in_one_piece = [*positions] == [*range(first, last + 1)]
        return self._pixels[first : last + 1] if in_one_piece else self._pixels[[*positions]]


class Ahead:
    """The pixels of a shard's pictures, read ahead of its batches.

    Args:
        pixels: where they come from.
        indices: of the pictures, in the order in which they are mostly taken.
        following: of those that are likely to be taken after them.
        pinned: whether a GPU copies them while it computes.
    """

    def __init__(self, pixels: Pixels, indices: Sequence[int], following: Sequence[int], *, pinned: bool) -> None:
        self._pixels, self._pinned, size = pixels, pinned, pixels.per_block
        self._pieces = [tuple(indices[cut : cut + size]) for cut in range(0, len(indices), size)]
        self._pieces.append(tuple(following[:size]))
        self._number, self._block = 0, pixels.block(self._pieces[0], pinned=pinned)

    def take(self, positions: Sequence[int]) -> Tensor:
        """Give pixels (N, 3, side, side) of the pictures at some positions.

        Raises:
            DatasetError: a picture cannot be decoded.
        """
        size = self._pixels.per_block
        pieces = groupby(positions, lambda position: position // size)
        parts = [self._piece(number).take([position % size for position in group]) for number, group in pieces]
        if following := self._pieces[self._number + 1]:
            self._pixels.begin(following, self._block, pinned=self._pinned)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _piece(self, number: int) -> Block:
        if number != self._number:
            self._number, self._block = number, self._pixels.block(self._pieces[number], pinned=self._pinned)
        return self._block
