"""Pixels of decoded pictures in files that processes share; a record that is not whole is never read."""

import fcntl
import inspect
import logging
import os
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from errno import ENOSPC
from functools import cache
from importlib.metadata import version
from pathlib import Path
from struct import Struct
from threading import Lock
from weakref import finalize
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

import models
from common import canonical_json, file_sha256, pictures, text_sha256

LIMIT_BYTES = 20 * 2**30
"""Default size of a cache: two and a half times the pictures of ImageNet's validation set at 224 x 224."""

RESERVE_BYTES = 2**30
"""Left free on the disk: results need room more than what can be decoded again."""

_HEADER = Struct("<4sI")
_WRITTEN = b"pix1"
_NAME = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger(__name__)


@cache
def decoders() -> str:
    """Name what decodes pictures, with its versions."""
    return f"pillow {version('pillow')}, simplejpeg {version('simplejpeg')}"


@cache
def _code_sha256() -> str:
    """Hash of the code that opens and resizes pictures."""
    sources = (*pictures.SOURCES, inspect.getfile(models.Preprocessing))
    return text_sha256(" ".join(file_sha256(Path(each)) for each in sources))


def _address(dataset_sha256: str, preprocessing: models.Preprocessing) -> str:
    """Hash of all that decides the pixels of a data set's pictures."""
    content = {
        "dataset": dataset_sha256,
        "geometry": preprocessing.geometry,
        "decoders": decoders(),
        "code": _code_sha256(),
    }
    return text_sha256(canonical_json(content))


@cache
def _warn(message: str) -> None:
    """Log once what would otherwise be logged for every shard."""
    _log.warning(message)


@dataclass(frozen=True)
class PixelCache:
    """A folder with one file for each data set and geometry, of a limited size; what was used longest ago makes room.

    Attributes:
        folder: where the files are; None makes temporary ones, which end with the objects that read them.
        limit_bytes: most that all files take on the disk.
    """

    folder: Path | None = None
    limit_bytes: int = LIMIT_BYTES

    def open(self, dataset_sha256: str, preprocessing: models.Preprocessing) -> "PixelFile":
        """Open the file of a data set's pictures; where that fails, what is opened stores nothing.

        Args:
            dataset_sha256: of the data set's content.
            preprocessing: whose pixels are stored.
        """
        size = 3 * preprocessing.crop**2
        try:
            if self.folder is None:
                with tempfile.TemporaryFile() as file:
                    return PixelFile(os.dup(file.fileno()), size, self)
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self.folder / _address(dataset_sha256, preprocessing)
            try:
                return PixelFile(_open_shared(path, os.O_RDWR | os.O_CREAT), size, self)
            except OSError:
                if not path.is_file():
                    raise
                return PixelFile(_open_shared(path, os.O_RDONLY), size, self, writable=False)
        except OSError as error:
            _warn(f"decoded pictures cannot be stored in {self.folder or 'a temporary file'}: {error.strerror}")
            return PixelFile(os.open(os.devnull, os.O_RDONLY), size, self, writable=False)

    def make_room(self, file: int, least_bytes: int) -> int:
        """Remove what nobody uses, that used longest ago first, until there is room for a file to grow.

        Args:
            file: descriptor of the file that grows; it is not removed.
            least_bytes: by which it grows now.

        Returns:
            Bytes by which it may grow before this is asked again; fewer than the least if there is no room.
        """
        step = max(self.limit_bytes // 64, least_bytes)
        own = os.fstat(file)
        others = [] if self.folder is None else sorted(_files(self.folder, but=own.st_ino), key=lambda each: each[0])
        used = _allocated(own) + sum(allocated for _, allocated, _ in others)
        for _, allocated, path in others:
            if used + step <= self.limit_bytes:
                break
            if _remove_unused(path):
                used -= allocated
        disk = os.fstatvfs(file)
        return min(step, self.limit_bytes - used, disk.f_bavail * disk.f_frsize - RESERVE_BYTES)


TEMPORARY = PixelCache()


class PixelFile:
    """Pixels of the pictures of a data set, each in a record of its own: a checksum, then the pixels. Threads may share it.

    While the object lives no process removes the file. It is read and written by position, never mapped: one that another process
    cut short has records that are not there, and a full disk is an error that can be caught.

    Args:
        file: descriptor, closed with the object.
        size_bytes: of the pixels of a picture.
        cache: which limits its size.
        writable: whether it can be written.

    Attributes:
        writable: whether what is written is stored; no longer, once it failed.
    """

    def __init__(self, file: int, size_bytes: int, cache: PixelCache, *, writable: bool = True) -> None:
        self._file, self._size, self._cache = file, _HEADER.size + size_bytes, cache
        self._room, self._lock = 0, Lock()
        self.writable = writable
        finalize(self, os.close, file)

    def read(self, index: int, into: NDArray[np.uint8]) -> bool:
        """Read the pixels of a picture; returns False if they are not there, and then leaves any values behind.

        Args:
            index: of the picture in the data set.
            into: contiguous array (3, H, W).
        """
        header = bytearray(_HEADER.size)
        try:
            os.preadv(self._file, [header, into.data], index * self._size)
        except OSError:  # a damaged disk: what cannot be read is decoded
            return False
        written, checksum = _HEADER.unpack(header)
        return written == _WRITTEN and checksum == crc32(into.data)

    def write(self, index: int, pixels: NDArray[np.uint8]) -> None:
        """Store the pixels of a picture, if there is room; processes that write the same one write the same bytes."""
        if not self.writable:
            return
        try:
            self._take_room()
            header = _HEADER.pack(_WRITTEN, crc32(pixels.data))
            if os.pwritev(self._file, [header, pixels.data], index * self._size) < self._size:
                raise OSError(ENOSPC, os.strerror(ENOSPC))
        except OSError as error:
            self.writable = False
            _warn(
                f"decoded pictures are no longer stored in {self._cache.folder or 'a temporary file'}: {error.strerror}"
            )

    def _take_room(self) -> None:
        with self._lock:
            if self._room < self._size:
                self._room = self._cache.make_room(self._file, self._size)
            if self._room < self._size:
                raise OSError(ENOSPC, f"no room within {self._cache.limit_bytes} bytes, or on the disk")
            self._room -= self._size


def _open_shared(path: Path, flags: int) -> int:
    """Open a file so that `_remove_unused` leaves it alone."""
    while True:
        file = os.open(path, flags, mode=0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_SH)
            if os.fstat(file).st_nlink:  # else it was removed in between
                with suppress(OSError):
                    os.utime(file)  # whether it is used often is seen by its time
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _remove_unused(path: Path) -> bool:
    """Remove a file unless an object somewhere reads it; returns whether it is gone."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(file)


def _files(folder: Path, *, but: int) -> list[tuple[int, int, Path]]:
    """Time, bytes on the disk and path of each file of a cache but one."""
    found: list[tuple[int, int, Path]] = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            facts = path.lstat()
            if _NAME.fullmatch(path.name) and facts.st_ino != but:
                found.append((facts.st_mtime_ns, _allocated(facts), path))
    return found


def _allocated(facts: os.stat_result) -> int:
    return 512 * facts.st_blocks
