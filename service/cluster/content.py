"""Files named by their SHA-256 in a folder that machines share, or in object storage."""

import fcntl
import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from re import fullmatch
from typing import Any, BinaryIO
from uuid import uuid4

import fsspec.core
from fsspec.spec import AbstractFileSystem

from common import file_sha256

_BLOCK_BYTES = 2**20


class ContentError(RuntimeError):
    """A file cannot be put into the store, or pulled out of it; the message says why."""


@dataclass(frozen=True)
class ContentStore:
    """A place for files that machines share; a file is written once and never changed.

    Attributes:
        url: a folder's absolute path, or a URL that fsspec knows, such as s3://bucket/folder.
    """

    url: str

    def open(self) -> tuple[AbstractFileSystem, str]:
        """Open the place; gives what reads and writes it, and the folder there.

        Raises:
            ContentError: the URL is of no kind that is known here, or of one that machines do not share.
        """
        try:
            system, folder = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ContentError(f"the store {self.url} cannot be opened: {error}") from error
        if "memory" in system.protocol:
            raise ContentError(f"the store {self.url} is the memory of one process; name a folder, or such as s3://")
        return system, folder.rstrip("/")

    def put(self, path: Path) -> str:
        """Put a file into the store, unless it is there; returns its SHA-256.

        Raises:
            ContentError: it changes meanwhile, or the store cannot be written.
        """
        system, folder = self.open()
        sha256 = file_sha256(path)
        try:
            if system.exists(f"{folder}/{sha256}"):
                return sha256
            system.makedirs(folder, exist_ok=True)
            part = f"{folder}/{sha256}.{uuid4().hex}.part"
            with path.open("rb") as source, system.open(part, "wb") as target:
                copied = _copy(source, target)
            if copied != sha256:
                system.rm_file(part)
                raise ContentError(f"{path.name} has changed while it was put into the store")
            system.mv(part, f"{folder}/{sha256}")
        except OSError as error:
            raise ContentError(f"{path.name} cannot be put into the store {self.url}: {error}") from error
        return sha256

    def pull(self, sha256: str, cache: Path) -> Path:
        """Copy a file into a folder of this machine, unless it is there; processes that ask at the same time wait for one of them.

        Args:
            sha256: of the file.
            cache: the folder.

        Raises:
            ContentError: that is no SHA-256, the store has no such file or another content under its name, or cannot be read.
        """
        if not fullmatch("[0-9a-f]{64}", sha256):
            raise ContentError(f"{sha256!r} is no SHA-256 of a file")
        target = cache / "files" / sha256
        with locked(cache, sha256):
            if not target.exists():
                self._fetch(sha256, target)
        return target

    def _fetch(self, sha256: str, target: Path) -> None:
        system, folder = self.open()
        part = target.with_suffix(".part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with system.open(f"{folder}/{sha256}", "rb") as source, part.open("wb") as file:
                copied = _copy(source, file)
        except FileNotFoundError as error:
            raise ContentError(f"the store {self.url} has no file {sha256}") from error
        except OSError as error:
            raise ContentError(f"{sha256} cannot be pulled from the store {self.url}: {error}") from error
        if copied != sha256:
            part.unlink()
            raise ContentError(
                f"the store {self.url} has another content under the name {sha256}: its SHA-256 is {copied}; remove that file, "
                "and the server writes it anew when it is asked for next"
            )
        part.replace(target)


@contextmanager
def locked(cache: Path, name: str) -> Generator[None]:
    """Keep other processes of this machine out of a part of the cache folder until the block ends."""
    locks = cache / "locks"
    locks.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (locks / name).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _copy(source: Any, target: BinaryIO | Any) -> str:
    """Copy from one open file to another; returns the SHA-256 of what was copied."""
    digest = hashlib.sha256()
    while block := source.read(_BLOCK_BYTES):
        digest.update(block)
        target.write(block)
    return digest.hexdigest()
