"""Folders that must be writable."""

from pathlib import Path
from tempfile import TemporaryFile


class FolderError(OSError):
    """A folder cannot be made or written; the message says why and what to do."""


def require_writable(folder: Path, what: str) -> None:
    """Make a folder, and see that a file can be written there.

    Args:
        folder: where.
        what: is to be kept there, such as "finished work".

    Raises:
        FolderError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FolderError(f"{what} cannot be stored in {folder}: {error.strerror}; name another folder") from error
