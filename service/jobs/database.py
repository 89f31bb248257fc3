"""The tables, and how a database is opened: its first process makes them."""

import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
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
)


class StoreError(RuntimeError):
    """The database cannot be used; the message says why and what to do."""


BUSY_S = 30
"""How long to wait for another process that writes to the database, seconds."""

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
    Column("runs", Integer, nullable=False, default=0),
    Column("error", Text),
    Column("seconds", Float),
    Column("finished", Integer),
    Index("shards_by_evaluation", "evaluation_id", "status"),
    Index("shards_by_address", "address", "images"),
    Index("shards_by_finish", "evaluation_id", "finished"),
    UniqueConstraint("evaluation_id", "model", "condition", "start"),
    sqlite_autoincrement=True,  # the id of a removed shard, which may still be running, is never given to another
)

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

KEYS = Table(
    "idempotency_keys",
    _METADATA,
    Column("key", String, primary_key=True),
    Column("body_sha256", String, nullable=False),
    Column("evaluation_id", ForeignKey("evaluations.id"), nullable=False),
)


def open_engine(url: str) -> Engine:
    """Open a database, and make the tables that are missing in it.

    Raises:
        StoreError: another version made it.
    """
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
    with transaction(engine) as db:  # several processes may open a new database at once
        _METADATA.create_all(db)
        _require_current(db)
    return engine


def _require_current(db: Connection) -> None:
    for table in _METADATA.sorted_tables:
        there = {each["name"] for each in inspect(db).get_columns(table.name)}
        if missing := sorted(set(table.columns.keys()) - there):
            raise StoreError(
                f"the database {db.engine.url.database} is of another version: its table {table.name} lacks {', '.join(missing)}; "
                "move it aside, and a new one is made, or name another folder"
            )


@contextmanager
def transaction(engine: Engine) -> Generator[Connection]:
    """Begin with the write lock, so that a read inside the transaction is not overtaken by another writer."""
    with engine.begin() as db:
        if engine.dialect.name == "sqlite":
            db.exec_driver_sql("BEGIN IMMEDIATE")
        yield db


def _prepare_sqlite(connection: Any, _record: object) -> None:
    for pragma in (f"busy_timeout = {1000 * BUSY_S}", "synchronous = NORMAL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:  # where others open the database too, SQLite does not wait here
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
