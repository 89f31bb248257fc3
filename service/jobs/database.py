"""The tables, and how a database is opened: its first process makes them."""

import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    inspect,
    text,
)
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError, ProgrammingError

from service.jobs.counts import counts_table, keep_counts


class StoreError(RuntimeError):
    """The database cannot be used; the message says why and what to do."""


BUSY_S = 1
"""How long to wait for another writer, seconds."""

OPENING_S = 30
"""How long to wait for other processes that open the database too, seconds."""

CONNECTIONS = 48
"""Connections that stay open, once there were so many: the 40 threads that answer requests and the dispatcher wait for none."""

_METADATA = MetaData()

EVALUATIONS = Table(
    "evaluations",
    _METADATA,
    Column("id", String, primary_key=True),
    Column("sequence", Integer, nullable=False, unique=True),
    Column("plan", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("cancelled_at", Float),
)

SHARDS = Table(
    "shards",
    _METADATA,
    Column("id", Integer, primary_key=True),
    Column("evaluation_id", ForeignKey("evaluations.id"), nullable=False),
    Column("model", String, nullable=False),
    Column("condition", Integer, nullable=False),
    Column("start", Integer, nullable=False),
    Column("address", String, nullable=False),
    Column("images", Integer, nullable=False),
    Column("images_done", Integer, nullable=False, server_default="0"),
    Column("passes", Integer, nullable=False),
    Column("status", String, nullable=False),
    Column("failures", Integer, nullable=False, default=0),
    Column("kills", Integer, nullable=False, default=0),
    Column("runs", Integer, nullable=False, default=0),
    Column("error", Text),
    Column("seconds", Float),
    Column("finished", Integer),
    Index("shards_by_evaluation", "evaluation_id", "status"),
    Index("shards_by_address", "address", "images"),
    Index("shards_by_finish", "evaluation_id", "finished"),
    Index("shards_with_errors", "evaluation_id", sqlite_where=text("error IS NOT NULL")),
    UniqueConstraint("evaluation_id", "model", "condition", "start"),
    sqlite_autoincrement=True,  # the id of a removed shard, which may still be running, is never given to another
)

COUNTS = counts_table(_METADATA)

RESULTS = Table(
    "results",
    _METADATA,
    Column("address", String, primary_key=True),
    Column("images", Integer, primary_key=True),
    Column("seconds", Float, nullable=False),
    Column("tally", Text, nullable=False),
    Column("result", Text, nullable=False),
)
"""Shared by all evaluations whose shards have the address; apart from them, so that counting shards does not read rows."""

OWNERS = Table(
    "owners",
    _METADATA,
    Column("evaluation_id", ForeignKey("evaluations.id"), primary_key=True),
    Column("owner", String, primary_key=True),
)
"""Who asked for an evaluation: several may have asked the same."""

TRACES = Table(
    "traces",
    _METADATA,
    Column("evaluation_id", ForeignKey("evaluations.id"), primary_key=True),
    Column("context", Text, nullable=False),
    Column("since", Float, nullable=False),
)
"""The traces that evaluations belong to, until their own spans are made."""

DISPATCH = Table(
    "dispatch",
    _METADATA,
    Column("token", Integer, primary_key=True, autoincrement=False),
    Column("seen_at", Float, nullable=False),
    Column("locked", Boolean, nullable=False),
)
"""One row: who dispatches, when that one was last seen, and whether it holds the lock file."""

KEYS = Table(
    "idempotency_keys",
    _METADATA,
    Column("key", String, primary_key=True),
    Column("body_sha256", String, nullable=False),
    Column("evaluation_id", ForeignKey("evaluations.id"), nullable=False),
)


class Database:
    """Reads and writes in transactions; whatever is wrong with the database is a StoreError that says so.

    Args:
        url: such as "sqlite:////var/lib/withstand/withstand.db".

    Raises:
        StoreError: it cannot be used, or another version made it.
    """

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url, pool_size=CONNECTIONS)
        self._path = Path(self._engine.url.database or "") if self._engine.dialect.name == "sqlite" else None
        self._file: tuple[int, int] | None = None
        if self._path is not None:
            event.listen(self._engine, "connect", _prepare_sqlite)
        self._open()
        self._file = self._identity()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Generator[Connection]:
        """Read, from one state of the database.

        Raises:
            StoreError: it cannot be read.
        """
        with self._explained(), self._engine.connect() as db:
            yield db

    @contextmanager
    def writing(self) -> Generator[Connection]:
        """Begin with the write lock, so that a read inside the transaction is not overtaken by another writer.

        Raises:
            StoreError: it cannot be written, or another process holds the lock for longer than `BUSY_S`.
        """
        with self._explained(), self._engine.begin() as db:
            if self._path is not None:
                db.exec_driver_sql("BEGIN IMMEDIATE")
            yield db

    def _open(self) -> None:
        """Make what is missing; several processes may do so at once, and wait for each other."""
        deadline = time.monotonic() + OPENING_S
        while True:
            try:
                with self.writing() as db:
                    _METADATA.create_all(db)
                    _require_current(db)
                    for index in SHARDS.indexes:
                        index.create(db, checkfirst=True)
                    keep_counts(db, COUNTS, SHARDS)
                return
            except StoreError as error:
                if not _is_locked(error.__cause__) or time.monotonic() > deadline:
                    raise

    @contextmanager
    def _explained(self) -> Generator[None]:
        if self._identity() != self._file and self._file is not None:
            raise StoreError(
                f"the database {self._path} was removed or replaced while it was in use; put it back, or start the service again"
            )
        try:
            yield
        except (OperationalError, DatabaseError, sqlite3.Error) as error:
            if isinstance(error, IntegrityError | ProgrammingError):
                raise
            reason = error.orig if isinstance(error, DatabaseError) else error
            raise StoreError(f"the database {self._path or self._engine.url} cannot be used: {reason}") from error

    def _identity(self) -> tuple[int, int] | None:
        """Device and inode of the file: another file at the same path is another database."""
        try:
            found = None if self._path is None else self._path.stat()
        except OSError:
            return None
        return None if found is None else (found.st_dev, found.st_ino)


def _is_locked(error: BaseException | None) -> bool:
    cause = error.orig if isinstance(error, DatabaseError) else error
    return isinstance(cause, sqlite3.OperationalError) and cause.sqlite_errorcode == sqlite3.SQLITE_BUSY


def _require_current(db: Connection) -> None:
    for table in _METADATA.sorted_tables:
        there = {each["name"] for each in inspect(db).get_columns(table.name)}
        if missing := sorted(set(table.columns.keys()) - there):
            raise StoreError(
                f"the database {db.engine.url.database} is of another version: its table {table.name} lacks {', '.join(missing)}"
            )


def _prepare_sqlite(connection: Any, _record: object) -> None:
    for pragma in (f"busy_timeout = {1000 * BUSY_S}", "synchronous = NORMAL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")
    deadline = time.monotonic() + OPENING_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:  # where others open the database too, SQLite does not wait here
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
