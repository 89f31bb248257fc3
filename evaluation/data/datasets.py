"""Labelled images: pictures sorted into one folder per class."""

import posixpath
from collections.abc import Collection
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import models
from common.pictures import PictureError, open_picture
from evaluation.data.notes import Notes
from evaluation.data.pixel_cache import TEMPORARY, PixelCache
from evaluation.data.pixels import Pixels
from evaluation.data.sources import DatasetError, Source, open_source, parts_of

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
LITTER = "__MACOSX"
"""Folder that macOS adds to an archive; what it adds elsewhere begins with a dot."""


class SelectionError(DatasetError):
    """More images are asked for than there are."""


class ImageFolder:
    """Pictures sorted into one folder per class; classes and files are in the order of their names.

    Attributes:
        path: the folder or the archive.
        classes: names of the classes; a label indexes them.
        files: paths inside the data set, with forward slashes.
        labels: of the files, in the same order.
        ignored: files that are no pictures, by their names.
        notes: what was found out about it.
        pixel_cache: where decoded pictures are stored.
    """

    def __init__(self, source: Source, notes: Notes, pixel_cache: PixelCache) -> None:
        pictures = sorted(filter(_is_picture, source.names))
        depth = _depth_of_classes(pictures)
        classes_of = [parts[depth] for parts in map(parts_of, pictures) if len(parts) > depth + 1]
        if len(classes_of) != len(pictures) or not pictures:
            stray = ", some of them in no class folder" if pictures else ""
            raise DatasetError(
                f"{source.path.name}: expected one folder of pictures per class, found {len(pictures)} pictures{stray}"
            )
        self._source = source
        self.path = source.path
        self.notes = notes
        self.pixel_cache = pixel_cache
        self._pixels: dict[str, Pixels] = {}
        self._order = lru_cache(maxsize=4)(self._draw)  # every shard asks
        self.classes = tuple(sorted(set(classes_of)))
        self.files = tuple(pictures)
        self._labels: NDArray[np.int64] = np.unique(classes_of, return_inverse=True)[1]
        self.labels = tuple(self._labels.tolist())
        self.ignored = tuple(sorted(set(source.names) - set(pictures)))

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def sha256(self) -> str:
        """Hash of the content; read anew only if sizes or times of the files have changed."""
        with self.notes.lock:
            facts, state = self.notes.facts, self._source.state(self.files)
            if facts.state != state:
                facts = self.notes.update(state=state, sha256=self._source.sha256(self.files))
            return facts.sha256

    def read(self, index: int) -> bytes:
        """Read a picture's bytes.

        Raises:
            DatasetError: the file is damaged.
        """
        try:
            return self._source.read(self.files[index])
        except (DatasetError, OSError) as error:
            raise DatasetError(f"{self.path.name}: {self.files[index]}: {error}") from error

    def picture(self, index: int) -> Image.Image:
        """Decode a picture.

        Raises:
            DatasetError: it cannot be decoded; the message names the file.
        """
        try:
            return open_picture(self.read(index))
        except PictureError as error:
            raise DatasetError(f"{self.path.name}: {self.files[index]}: {error}") from error

    def pixels(self, preprocessing: models.Preprocessing) -> Pixels:
        """Give the pictures as a preprocessing makes them; those that differ in nothing but their scale share them."""
        return self._pixels.setdefault(preprocessing.geometry, Pixels(self, preprocessing))

    def select(self, count: int | None, seed: int, *, broken: Collection[int] = (), evenly: bool = True) -> list[int]:
        """Choose images, evenly from the classes unless told otherwise.

        The order is drawn once from the seed: the first of every class, then the second of every class, and so on, or each of all
        that are left. A larger selection begins with the smaller one.

        Args:
            count: how many; None takes all.
            seed: of the draw.
            broken: indices of images that are passed over. Where none of those chosen is among them, they change nothing.
            evenly: from the classes; otherwise each image is as likely as any other, whatever its class.

        Returns:
            Indices of the images.

        Raises:
            SelectionError: there are fewer images.
        """
        if count is not None and count > len(self) - len(broken):
            less = f", {len(broken)} of them broken" if broken else ""
            raise SelectionError(f"{count} images asked for, {self.path.name} has {len(self)}{less}")
        return self._order(seed, frozenset(broken), evenly)[:count].tolist()

    def _draw(self, seed: int, broken: frozenset[int], evenly: bool) -> NDArray[np.int64]:
        generator = np.random.Generator(np.random.PCG64(seed))
        labels = self._labels
        shuffled = generator.permutation(len(labels))
        if broken:
            shuffled = shuffled[~np.isin(shuffled, list(broken))]
        if not evenly:
            return shuffled
        by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
        rank = np.empty(len(labels), dtype=np.int64)
        rank[by_class] = np.arange(len(by_class)) - np.searchsorted(labels[by_class], labels[by_class])
        return shuffled[np.argsort(rank[shuffled], kind="stable")]


def _is_picture(name: str) -> bool:
    parts = name.split("/")
    litter = any(part.startswith(".") or part == LITTER for part in parts)
    return not litter and posixpath.splitext(parts[-1])[1].lower() in SUFFIXES


def _depth_of_classes(names: list[str]) -> int:
    """Number of leading folders that all files share and that hold further folders: a zip often wraps everything in one."""
    folders = [parts_of(name)[:-1] for name in names]
    depth = 0
    while (
        folders and all(len(parts) > depth + 1 for parts in folders) and len({parts[depth] for parts in folders}) == 1
    ):
        depth += 1
    return depth


def open_dataset(path: Path, *, notes: Path | None = None, pixel_cache: PixelCache = TEMPORARY) -> ImageFolder:
    """Open a folder of class folders, or an archive of one.

    Args:
        path: of the folder or the archive.
        notes: folder in which what was found out about data sets is stored; None holds it in memory.
        pixel_cache: where decoded pictures are stored.

    Raises:
        DatasetError: there is nothing at the path, it is neither, or it is not safe to read.
    """
    return ImageFolder(open_source(path), Notes(path, notes), pixel_cache)
