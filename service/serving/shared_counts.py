"""Numbers that the processes of a service have in common, so that a limit holds for all of them together."""

import fcntl
import mmap
import os
from pathlib import Path
from zlib import crc32

SLOTS = 2**18
"""Numbers of a process. The hash of a name tells its number: among a hundred names two have the same one with probability 0.02."""

_BYTES = 8


class SharedCounts:
    """Each process writes its own numbers, by name, into a file that all of them map; nothing is locked.

    Args:
        folder: of this service's processes; None if there is one process.
        processes: how many there are.
    """

    def __init__(self, folder: Path | None = None, processes: int = 1) -> None:
        self._others: list[memoryview] = []
        self._own: memoryview | None = None
        if folder is not None:
            self._map(folder, processes)

    def _map(self, folder: Path, processes: int) -> None:
        row = self._claim(folder, processes)
        size_bytes = SLOTS * _BYTES
        with (folder / "counts").open("a+b") as file:
            os.ftruncate(file.fileno(), processes * size_bytes)
            numbers = memoryview(mmap.mmap(file.fileno(), processes * size_bytes)).cast("q")
        rows = [numbers[start : start + SLOTS] for start in range(0, processes * SLOTS, SLOTS)]
        self._own = rows.pop(row)
        self._own[:] = memoryview(bytes(size_bytes)).cast("q")  # of a process that ended, and that this one replaces
        self._others = rows

    def _claim(self, folder: Path, processes: int) -> int:
        """Find a row that no living process has, and keep it as long as this one lives."""
        for row in range(processes):
            descriptor = os.open(folder / f"row-{row}", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
            else:
                return row
        raise RuntimeError(f"{folder} has room for {processes} processes, and as many run")

    def set(self, name: str, value: int) -> None:
        """Write a number of this process."""
        if self._own is not None:
            self._own[_slot(name)] = value

    def elsewhere(self, name: str) -> int:
        """Add up what the other processes wrote."""
        return sum(row[_slot(name)] for row in self._others) if self._others else 0


def _slot(name: str) -> int:
    return crc32(name.encode()) % SLOTS
