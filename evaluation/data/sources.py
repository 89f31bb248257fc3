"""Where the files of a data set lie: a folder, or a zip or tar that is read without unpacking."""

import gzip
import os
import stat
import tarfile
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from weakref import finalize

from common import file_sha256, printable, text_sha256

MAX_FILES = 5_000_000
MAX_FILE_BYTES = 256 * 2**20
MAX_RATIO = 200
"""Uncompressed over compressed size above which a zip entry is refused; pictures are compressed already."""
MAX_TAR_RATIO = 50
"""The same for a whole compressed tar, which is expanded on disk; padding around small pictures is most of what expands."""

_ZIPS, _TARS, COMPRESSED_TARS = (".zip",), (".tar",), (".tar.gz", ".tgz")
ARCHIVES = (*_ZIPS, *_TARS, *COMPRESSED_TARS)
"""Endings of the archives that can be read."""
_COPIED_BYTES = 2**20
_BLOCK_BYTES = 512


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
        self._on_disk = {printable(name): name for name in names}
        super().__init__(path, [*self._on_disk])

    def read(self, name: str) -> bytes:
        """Read a file."""
        return (self.path / self._on_disk[name]).read_bytes()

    def sha256(self, names: Sequence[str]) -> str:
        """Hash all names and contents."""
        return text_sha256("\n".join(f"{name} {file_sha256(self.path / self._on_disk[name])}" for name in names))

    def state(self, names: Sequence[str]) -> str:
        """Hash all names, sizes and times."""
        root = f"{self.path}/"
        return text_sha256("\n".join(f"{name} {_state(root + self._on_disk[name])}" for name in names))


def _state(path: Path | str) -> str:
    found = os.stat(path)  # noqa: PTH116  a Path for each of a hundred thousand files takes as long again
    return f"{found.st_size} {found.st_mtime_ns}"


class Zip(Source):
    """A zip file."""

    def __init__(self, path: Path) -> None:
        try:
            self._archive = zipfile.ZipFile(path)
        except Exception as error:  # whatever zipfile trips over
            raise DatasetError(f"{path.name} is not a readable zip file: {error}") from error
        entries = [entry for entry in self._archive.infolist() if not entry.filename.endswith("/")]
        _require_few(path.name, len(entries))
        for entry in entries:
            _require_harmless(path.name, entry)
        super().__init__(path, [entry.filename for entry in entries])

    def read(self, name: str) -> bytes:
        """Read an entry."""
        try:
            return self._archive.read(name)
        except Exception as error:  # whatever zipfile trips over
            raise DatasetError(f"cannot be read: {error}") from error


def _require_harmless(archive: str, entry: zipfile.ZipInfo) -> None:
    require_inside(archive, entry.filename)
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise DatasetError(f"{archive}: the entry {entry.filename!r} is a link; only plain files are allowed")
    if entry.flag_bits & 1:
        raise DatasetError(f"{archive}: the entry {entry.filename!r} is encrypted")
    _require_small(archive, entry.filename, entry.file_size)
    if entry.file_size > 2**20 and entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
        raise DatasetError(
            f"{archive}: {entry.filename!r} expands more than {MAX_RATIO} times; it looks like a zip bomb"
        )


def require_inside(archive: str, name: str) -> None:
    """Refuse the name of an entry that would lie outside a folder that the archive is unpacked to.

    Raises:
        DatasetError: it does.
    """
    parts = parts_of(name)
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]:
        raise DatasetError(f"{archive}: the entry {name!r} points outside the archive; use relative names without '..'")


def parts_of(name: str) -> list[str]:
    """Folders and file of a path, faster than a path object, of which there would be many thousands."""
    return [part for part in name.split("/") if part not in {"", "."}]


def _require_few(archive: str, files: int) -> None:
    if files > MAX_FILES:
        raise DatasetError(f"{archive} holds {files} files or more; at most {MAX_FILES} are allowed")


def _require_small(archive: str, name: str, size_bytes: int) -> None:
    if size_bytes > MAX_FILE_BYTES:
        raise DatasetError(f"{archive}: {name!r} has {size_bytes} bytes, at most {MAX_FILE_BYTES} are allowed")


class Tar(Source):
    """A tar file. Entries are read where they lie; a compressed one is expanded once, into a file that goes with the object."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = _expanded(path) if path.name.endswith(COMPRESSED_TARS) else path.open("rb")
            finalize(self, self._file.close)
            self._places = _places(path.name, self._file)
        except DatasetError:
            raise
        except Exception as error:  # whatever tarfile trips over
            hint = (
                "; it is compressed: gunzip it first" if isinstance(error, tarfile.TarError) and _is_gzip(path) else ""
            )
            raise DatasetError(f"{path.name} is not a readable tar file: {error}{hint}") from error
        super().__init__(path, [*self._places])

    def read(self, name: str) -> bytes:
        """Read an entry."""
        start, size = self._places[name]
        data = os.pread(self._file.fileno(), size, start)
        if len(data) < size:
            raise DatasetError(f"cannot be read: {len(data)} of its {size} bytes are there")
        return data


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _expanded(path: Path) -> BinaryIO:
    """Expand a compressed file into a temporary one, in pieces."""
    allowed = max(path.stat().st_size * MAX_TAR_RATIO, 2**20)
    expanded = tempfile.TemporaryFile()  # noqa: SIM115  closed with the source
    try:
        with gzip.open(path) as compressed:
            while piece := compressed.read(_COPIED_BYTES):
                if expanded.tell() + len(piece) > allowed:
                    raise DatasetError(
                        f"{path.name} expands more than {MAX_TAR_RATIO} times; it looks like a bomb. "
                        "If it is none, unpack it and use the folder"
                    )
                expanded.write(piece)
        expanded.flush()
    except BaseException:
        expanded.close()
        raise
    return expanded


def _places(archive: str, file: BinaryIO) -> dict[str, tuple[int, int]]:
    """Find offset and size of every file in a tar, in bytes; of two with one name the later counts, as where tar unpacks."""
    file.seek(0)
    offsets: dict[str, tuple[int, int]] = {}
    with tarfile.open(fileobj=file, mode="r:") as entries:
        for count, entry in enumerate(entries, 1):
            _require_few(archive, count)
            if entry.isdir():
                continue
            require_inside(archive, entry.name)
            if not entry.isreg() or entry.issparse():
                kind = "a link" if entry.issym() or entry.islnk() else "a device, a pipe or sparse"
                raise DatasetError(f"{archive}: the entry {entry.name!r} is {kind}; only plain files are allowed")
            _require_small(archive, entry.name, entry.size)
            offsets[printable(PurePosixPath(entry.name).as_posix())] = entry.offset_data, entry.size
        end = os.pread(file.fileno(), _BLOCK_BYTES, entries.offset)
    if any(end) or len(end) % _BLOCK_BYTES:  # tarfile takes a damaged header for the end
        raise DatasetError(f"{archive} is not a readable tar file: damaged at byte {entries.offset}")
    return offsets


def dataset_name(path: Path) -> str:
    """Name of the data set at a path: the file's without the ending of an archive."""
    ending = next((each for each in ARCHIVES if path.name.endswith(each)), "")
    return printable(path.name.removesuffix(ending))


def open_source(path: Path) -> Source:
    """Open a folder or an archive.

    Raises:
        DatasetError: there is nothing at the path, it is neither, or it is not safe to read.
    """
    if path.is_dir():
        return Directory(path)
    require_archive(path)
    return Zip(path) if path.name.endswith(_ZIPS) else Tar(path)


def require_archive(path: Path) -> None:
    """Refuse a path that is no archive, by its name.

    Raises:
        DatasetError: there is nothing, or something else.
    """
    if not path.exists():
        raise DatasetError(f"there is no data set at {path}")
    if not path.is_file() or not path.name.endswith(ARCHIVES):
        raise DatasetError(f"{path} is neither a folder nor an archive whose name ends in {', '.join(ARCHIVES)}")
