"""The tables, and how a database is opened: its first process makes them, those of an earlier version are brought up to date."""

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
    column,
    create_engine,
    event,
    insert,
    inspect,
    select,
    table,
)

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
    Column("shard", Text, nullable=False),
    Column("address", String, index=True),
    Column("images", Integer, nullable=False),
    Column("images_done", Integer, nullable=False, server_default="0"),
    Column("passes", Integer, nullable=False),
    Column("status", String, nullable=False),
    Column("failures", Integer, nullable=False, default=0),
    Column("runs", Integer, nullable=False, default=0),
    Column("error", Text),
    Column("result", Text),
    Column("seconds", Float),
    Index("shards_by_evaluation", "evaluation_id", "status"),
    sqlite_autoincrement=True,  # the id of a removed shard, which may still be running, is never given to another
)

KEYS = Table(
    "idempotency_keys",
    _METADATA,
    Column("key", String, primary_key=True),
    Column("body_sha256", String, nullable=False),
    Column("evaluation_id", ForeignKey("evaluations.id"), nullable=False),
)


def open_engine(url: str) -> Engine:
    """Open a database, and make what is missing in it."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
    with transaction(engine) as db:  # several processes may open a new database at once
        _METADATA.create_all(db)
        _bring_up_to_date(db)
    return engine


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


def _bring_up_to_date(db: Connection) -> None:
    """Write the shards of an earlier version anew: it gave ids of removed ones again, and knew neither addresses nor progress."""
    if db.dialect.name != "sqlite":
        return
    definition = db.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'shards'").scalar_one()
    if "AUTOINCREMENT" in definition:
        return
    kept = [each["name"] for each in inspect(db).get_columns("shards")]
    for index in SHARDS.indexes:
        index.drop(db, checkfirst=True)
    db.exec_driver_sql("ALTER TABLE shards RENAME TO earlier_shards")
    SHARDS.create(db)
    earlier = table("earlier_shards", *map(column, kept))
    db.execute(insert(SHARDS).from_select(kept, select(earlier)))
    db.exec_driver_sql("DROP TABLE earlier_shards")
