"""A database, SQLite or PostgreSQL: how it is opened, read and written."""

import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from threading import local
from typing import TYPE_CHECKING

from sqlalchemy import Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from service.sql.schema import SchemaError, bring_up_to_date
from service.sql.sqlite import OPENING_S, FileLock, Sqlite

if TYPE_CHECKING:
    from service.sql.postgresql import AdvisoryLock, Postgresql

    Lock = FileLock | AdvisoryLock

_EXPECTED = (
    "expected sqlite:////path/to/file or postgresql://user:password@host/database, where @ : / ? # of the password are written "
    "as %40 %3A %2F %3F %23"
)


class StoreError(RuntimeError):
    """The database cannot be used; the message says why and what to do."""


class Database:
    """Reads and writes in transactions; whatever is wrong with the database is a StoreError that says so.

    Args:
        url: such as "sqlite:////var/lib/withstand/withstand.db" or "postgresql://user:password@host/database".

    Raises:
        StoreError: it cannot be used, or another version made it.
    """

    def __init__(self, url: str) -> None:
        self._backend = _backend_of(url)
        self._engine = self._backend.engine
        self._of_thread = local()
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Generator[Connection]:
        """Read, from one state of the database; inside a `writing` of the same thread, also what that has written.

        Raises:
            StoreError: it cannot be read.
        """
        if (joined := self._written) is not None:
            yield joined
            return
        with self._explained(), self._engine.connect() as db:
            self._backend.begin_reading(db)
            yield db

    @contextmanager
    def writing(self, *, notify: bool = False) -> Generator[Connection]:
        """Begin with the write lock, so that a read inside the transaction is not overtaken by another writer.

        Inside another one of the same thread it is part of that: what is written in both is written together, or not at all.

        Args:
            notify: tell those who listen, once it is written.

        Raises:
            StoreError: it cannot be written, or others write for longer than `BUSY_S`.
        """
        if (joined := self._written) is not None:
            yield joined
            return
        with self._explained(), self._backend.turn(), self._engine.begin() as db:
            self._backend.begin_writing(db, notify=notify)
            self._of_thread.written = db
            try:
                yield db
            finally:
                self._of_thread.written = None

    def give_back_space(self) -> bool:
        """Give some of the space that deleted rows took back to the file system; returns whether there was much."""
        with self.writing() as db:
            return self._backend.give_back_space(db)

    def lock(self) -> "Lock":
        """Give the lock of the dispatcher, which one process at a time can take."""
        return self._backend.lock()

    def listening(self, heard: Callable[[], None]) -> AbstractContextManager[None]:
        """Call something when another process has written with `notify`, if the database can tell."""
        return self._backend.listening(heard)

    @property
    def _written(self) -> Connection | None:
        """What this thread writes at the moment."""
        return getattr(self._of_thread, "written", None)

    def _open(self) -> None:
        """Make what is missing; several processes may do so at once, and wait for each other."""
        deadline = time.monotonic() + OPENING_S
        while True:
            try:
                with self.writing() as db:
                    bring_up_to_date(db)
                return
            except SchemaError as error:
                raise StoreError(f"the database {self._backend.name} {error}") from error
            except StoreError as error:
                if not self._backend.is_busy(_of_driver(error.__cause__)) or time.monotonic() > deadline:
                    raise

    @contextmanager
    def _explained(self) -> Generator[None]:
        if self._backend.replaced():
            raise StoreError(
                f"the database {self._backend.name} was removed or replaced while it was in use; "
                "put it back, or start the service again"
            )
        try:
            yield
        except self._backend.defects:
            raise
        except (DBAPIError, PoolTimeoutError, sqlite3.Error) as error:
            reason = " ".join(str(_of_driver(error)).split())
            raise StoreError(f"the database {self._backend.name} cannot be used: {reason}") from error


def reach(url: str) -> str:
    """Connect to a server, and leave its database as it is; returns the URL without its password.

    Raises:
        StoreError: it does not answer, or answers with a refusal.
    """
    backend = _backend_of(url)
    try:
        with backend.engine.connect():
            return backend.name
    except DBAPIError as error:
        reason = " ".join(str(_of_driver(error)).split())
        raise StoreError(f"the database {backend.name} cannot be reached: {reason}") from error
    finally:
        backend.engine.dispose()


def _backend_of(url: str) -> "Sqlite | Postgresql":
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # which may repeat a part of the password
        raise StoreError(f"the database URL cannot be read; {_EXPECTED}") from None
    if parsed.drivername == "sqlite" and parsed.database not in {None, "", ":memory:"}:
        return Sqlite(parsed)
    if parsed.drivername not in {"postgresql", "postgresql+psycopg"} or "@" in (parsed.host or ""):
        raise StoreError(f"the database URL, {parsed.drivername}://..., cannot be used; {_EXPECTED}")
    try:
        from service.sql.postgresql import Postgresql  # noqa: PLC0415  # it needs an extra
    except ImportError as error:
        raise StoreError("a PostgreSQL database needs psycopg: uv pip install '.[postgres]'") from error
    return Postgresql(parsed)


def _of_driver(error: BaseException | None) -> BaseException | None:
    return error.orig if isinstance(error, DBAPIError) else error
