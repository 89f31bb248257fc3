"""What is particular to SQLite: a file, one writer at a time, and a lock file beside it."""

import fcntl
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any, cast

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.exc import IntegrityError, ProgrammingError

BUSY_S = 1
"""How long to wait for another writer, seconds."""

OPENING_S = 30
"""How long to wait for other processes that open the database too, seconds."""

CONNECTIONS = 48
"""Connections that stay open, once there were so many: the 40 threads that answer requests and the dispatcher wait for none."""


SPARE_PAGES = 1000
"""Free pages of 4 KiB that a file keeps for later rows; no more are given back at a time."""

INCREMENTAL = 2
"""The way of giving space back that new files have, as SQLite numbers it."""


class FileLock:
    """Held by a process until it releases it or ends."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w")

    def take(self) -> bool:
        """Take it, if nobody else has it; returns whether it is held."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Let others have it."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Release it for good."""
        self._file.close()


class Sqlite:
    """A database file.

    Args:
        url: with the path of the file.
    """

    defects = (IntegrityError, ProgrammingError)
    """Errors that are no fault of the database."""

    def __init__(self, url: URL) -> None:
        self._path = Path(url.database or "")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.name = str(self._path)
        self.engine = create_engine(url, pool_size=CONNECTIONS)
        event.listen(self.engine, "connect", _prepare)
        self._opened: tuple[int, int] | None = None
        self._turn = Lock()

    @contextmanager
    def turn(self) -> Generator[None]:
        """Let the threads of this process write in turn; those that wait inside SQLite sleep, and may never get the lock.

        Raises:
            sqlite3.OperationalError: others write for longer than `BUSY_S`.
        """
        if not self._turn.acquire(timeout=BUSY_S):
            raise sqlite3.OperationalError(f"database is locked, for {BUSY_S} s")
        try:
            yield
        finally:
            self._turn.release()

    def begin_reading(self, db: Connection) -> None:
        """Nothing: a query sees one state."""

    def begin_writing(self, db: Connection, *, notify: bool) -> None:
        """Take the write lock."""
        db.exec_driver_sql("BEGIN IMMEDIATE")

    def give_back_space(self, db: Connection) -> bool:
        """Cut pages that are free off the file; one that an earlier version made keeps them for later rows."""
        free = db.exec_driver_sql("PRAGMA freelist_count").scalar_one()
        if free <= SPARE_PAGES or db.exec_driver_sql("PRAGMA auto_vacuum").scalar_one() != INCREMENTAL:
            return False
        driver = cast(sqlite3.Connection, db.connection.driver_connection)
        driver.execute(f"PRAGMA incremental_vacuum({SPARE_PAGES})").fetchall()  # each row cuts off a page
        return True

    def lock(self) -> FileLock:
        """Give the lock of the dispatcher, not yet taken."""
        return FileLock(self._path.with_name("dispatcher.lock"))

    def listening(self, heard: Callable[[], None]) -> AbstractContextManager[None]:
        """Nothing: SQLite does not tell of changes."""
        return nullcontext()

    def is_busy(self, error: BaseException | None) -> bool:
        """Whether an error of the driver says that another writer took too long."""
        return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_BUSY

    def replaced(self) -> bool:
        """Whether the file is no longer the one that was opened."""
        found = self._identity()
        if self._opened is None:
            self._opened = found
        return found != self._opened

    def _identity(self) -> tuple[int, int] | None:
        """Device and inode of the file: another file at the same path is another database."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


def _prepare(connection: Any, _record: object) -> None:
    for pragma in (f"busy_timeout = {1000 * BUSY_S}", "synchronous = NORMAL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")
    deadline = time.monotonic() + OPENING_S
    while True:
        try:
            if connection.execute("PRAGMA page_count").fetchone() == (0,):  # later it has no effect, but takes the lock
                connection.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:  # where others open the database too, SQLite does not wait here
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
