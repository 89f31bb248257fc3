"""Folders that must be writable."""

from pathlib import Path
from tempfile import TemporaryFile


class FolderError(OSError):
    """A folder cannot be created or written to; the message says why, and what to do."""


def require_writable(folder: Path, what: str) -> None:
    """Create a folder if it does not exist, and check that files can be written there.

    Args:
        folder: its path.
        what: what will be stored there, for the message, such as "finished work".

    Raises:
        FolderError: the folder cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FolderError(f"{what} cannot be stored in {folder}: {error.strerror}; choose another folder") from error
