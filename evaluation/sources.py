"""Where the files of a data set lie: a folder, or a zip that is read without unpacking."""

import os
import stat
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from common import file_sha256, text_sha256

MAX_FILES = 5_000_000
MAX_FILE_BYTES = 256 * 2**20
MAX_RATIO = 200
"""Uncompressed over compressed size above which a zip entry is refused; pictures are compressed already."""


class DatasetError(ValueError):
    """A data set cannot be used; the message says why and what is expected."""


class Source(ABC):
    """Files by name.

    Attributes:
        path: the folder or the archive.
        names: paths below it, with forward slashes, in no order.
    """

    def __init__(self, path: Path, names: list[str]) -> None:
        self.path = path
        self.names = names

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Read a file; several threads may do so at once.

        Raises:
            DatasetError: it is damaged.
            OSError: it cannot be read.
        """

    def sha256(self, names: Sequence[str]) -> str:
        """Hash the content of these files and their names."""
        del names  # an archive is one file
        return file_sha256(self.path)

    def state(self, names: Sequence[str]) -> str:
        """Name sizes and times of these files: as long as they stay, so does the content."""
        del names
        return _state(self.path)


class Directory(Source):
    """A folder on disk."""

    def __init__(self, path: Path) -> None:
        names: list[str] = []
        for folder, _, files in os.walk(path):
            below = Path(folder).relative_to(path).as_posix()
            names += [name if below == "." else f"{below}/{name}" for name in files]
        super().__init__(path, names)

    def read(self, name: str) -> bytes:
        """Read a file."""
        return (self.path / name).read_bytes()

    def sha256(self, names: Sequence[str]) -> str:
        """Hash all names and contents."""
        return text_sha256("\n".join(f"{name} {file_sha256(self.path / name)}" for name in names))

    def state(self, names: Sequence[str]) -> str:
        """Hash all names, sizes and times."""
        root = f"{self.path}/"
        return text_sha256("\n".join(f"{name} {_state(root + name)}" for name in names))


def _state(path: Path | str) -> str:
    found = os.stat(path)  # noqa: PTH116  a Path for each of a hundred thousand files takes as long again
    return f"{found.st_size} {found.st_mtime_ns}"


class Zip(Source):
    """A zip file."""

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

    def read(self, name: str) -> bytes:
        """Read an entry."""
        try:
            return self._archive.read(name)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError, NotImplementedError) as error:
            raise DatasetError(f"cannot be read: {error}") from error


def _require_harmless(archive: str, entry: zipfile.ZipInfo) -> None:
    require_inside(archive, entry.filename)
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


def require_inside(archive: str, name: str) -> None:
    """Refuse the name of an entry that would lie outside a folder that the archive is unpacked to.

    Raises:
        DatasetError: it does.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.parts[0]:
        raise DatasetError(f"{archive}: the entry {name!r} points outside the archive; use relative names without '..'")


def open_source(path: Path) -> Source:
    """Open a folder or a zip.

    Raises:
        DatasetError: there is nothing at the path, it is neither, or it is not safe to read.
    """
    if path.is_dir():
        return Directory(path)
    if path.is_file():
        return Zip(path)
    raise DatasetError(f"there is no data set at {path}")
