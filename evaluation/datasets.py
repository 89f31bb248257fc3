"""Labelled images: a folder of class folders, or a zip of one that is read without unpacking."""

import stat
import zipfile
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from common import file_sha256, text_sha256
from common.pictures import PictureError, open_picture

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
MAX_FILES = 5_000_000
MAX_FILE_BYTES = 256 * 2**20
MAX_RATIO = 200
"""Uncompressed over compressed size above which a zip entry is refused; pictures are compressed already."""


class DatasetError(ValueError):
    """A data set cannot be used; the message says why and what is expected."""


class SelectionError(DatasetError):
    """More images are asked for than there are."""


class ImageFolder(ABC):
    """Pictures sorted into one folder a class; classes and files are in the order of their names.

    Attributes:
        path: the folder or the zip file.
        classes: names of the classes; a label indexes them.
        files: paths inside the data set, with forward slashes.
        labels: of the files, in the same order.
    """

    def __init__(self, path: Path, names: list[str]) -> None:
        pictures = sorted(name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES)
        depth = _depth_of_classes(pictures)
        classes_of = [
            PurePosixPath(name).parts[depth] for name in pictures if len(PurePosixPath(name).parts) > depth + 1
        ]
        if len(classes_of) != len(pictures) or not pictures:
            stray = ", some of them in no class folder" if pictures else ""
            raise DatasetError(
                f"{path.name}: expected one folder of pictures a class, found {len(pictures)} pictures{stray}"
            )
        self.path = path
        self.classes = tuple(sorted(set(classes_of)))
        self.files = tuple(pictures)
        self.labels = tuple(np.unique(classes_of, return_inverse=True)[1].tolist())

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def sha256(self) -> str:
        """Hash of the content."""
        return self._sha256()

    @abstractmethod
    def _sha256(self) -> str: ...

    @abstractmethod
    def read(self, index: int) -> bytes:
        """Read a picture's bytes."""

    def picture(self, index: int) -> Image.Image:
        """Decode a picture.

        Raises:
            DatasetError: it cannot be decoded; the message names the file.
        """
        try:
            return open_picture(self.read(index))
        except PictureError as error:
            raise DatasetError(f"{self.path.name}: {self.files[index]}: {error}") from error

    def select(self, count: int | None, seed: int) -> list[int]:
        """Choose images evenly from the classes.

        The order is drawn once from the seed: the first of every class, then the second of every class, and so on. A larger
        selection begins with the smaller one.

        Args:
            count: how many; None takes all.
            seed: of the draw.

        Returns:
            Indices of the images.

        Raises:
            SelectionError: there are fewer images.
        """
        if count is not None and count > len(self):
            raise SelectionError(f"{count} images asked for, {self.path.name} has {len(self)}")
        generator = np.random.Generator(np.random.PCG64(seed))
        labels = np.array(self.labels)
        shuffled = generator.permutation(len(labels))
        rank = np.empty(len(labels), dtype=np.int64)
        for label in range(len(self.classes)):
            members = shuffled[labels[shuffled] == label]
            rank[members] = np.arange(len(members))
        order = shuffled[np.argsort(rank[shuffled], kind="stable")]
        return order[:count].tolist()


def _depth_of_classes(names: list[str]) -> int:
    """Number of leading folders that all files share and that hold further folders: a zip often wraps everything in one."""
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    depth = 0
    while (
        folders and all(len(parts) > depth + 1 for parts in folders) and len({parts[depth] for parts in folders}) == 1
    ):
        depth += 1
    return depth


class _Directory(ImageFolder):
    def __init__(self, path: Path) -> None:
        super().__init__(path, [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()])

    def _sha256(self) -> str:
        """Hash all names and contents."""
        return text_sha256("\n".join(f"{name} {file_sha256(self.path / name)}" for name in self.files))

    def read(self, index: int) -> bytes:
        """Read a picture's bytes."""
        return (self.path / self.files[index]).read_bytes()


class _Zip(ImageFolder):
    def __init__(self, path: Path) -> None:
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise DatasetError(f"{path.name} is not a readable zip file: {error}") from error
        entries = [entry for entry in self._archive.infolist() if not entry.is_dir()]
        if len(entries) > MAX_FILES:
            raise DatasetError(f"{path.name} holds {len(entries)} files, allowed are {MAX_FILES}")
        for entry in entries:
            _require_harmless(path.name, entry)
        super().__init__(path, [entry.filename for entry in entries])

    def _sha256(self) -> str:
        """Hash the zip file."""
        return file_sha256(self.path)

    def read(self, index: int) -> bytes:
        """Read a picture's bytes.

        Raises:
            DatasetError: the entry is damaged.
        """
        try:
            return self._archive.read(self.files[index])
        except (zipfile.BadZipFile, RuntimeError, OSError, NotImplementedError) as error:
            raise DatasetError(f"{self.path.name}: {self.files[index]} cannot be read: {error}") from error


def _require_harmless(archive: str, entry: zipfile.ZipInfo) -> None:
    name = PurePosixPath(entry.filename)
    if name.is_absolute() or ".." in name.parts or "\\" in entry.filename or ":" in name.parts[0]:
        raise DatasetError(
            f"{archive}: the entry {entry.filename!r} points outside the archive; use relative names without '..'"
        )
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise DatasetError(f"{archive}: the entry {entry.filename!r} is a link; only plain files are allowed")
    if entry.flag_bits & 1:
        raise DatasetError(f"{archive}: the entry {entry.filename!r} is encrypted")
    if entry.file_size > MAX_FILE_BYTES:
        raise DatasetError(f"{archive}: {entry.filename!r} has {entry.file_size} bytes, allowed are {MAX_FILE_BYTES}")
    if entry.file_size > 2**20 and entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
        raise DatasetError(
            f"{archive}: {entry.filename!r} expands more than {MAX_RATIO} times; it looks like a zip bomb"
        )


def open_dataset(path: Path) -> ImageFolder:
    """Open a folder of class folders, or a zip of one.

    Raises:
        DatasetError: there is nothing at the path, it is neither, or it is not safe to read.
    """
    if path.is_dir():
        return _Directory(path)
    if path.is_file():
        return _Zip(path)
    raise DatasetError(f"there is no data set at {path}")
